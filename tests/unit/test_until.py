"""How far `until` moves in an audit: never past what may still come to light. The table is played; the clock is its own."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from unittest.mock import MagicMock

import pytest

from cdc_indexer.flow.progress import Progress
from cdc_indexer.jobs.audit import HOLD_BACK, Audit
from cdc_indexer.jobs.reading_table import TableReading
from cdc_indexer.model.position import Position
from cdc_indexer.model.settled import Settled
from cdc_indexer.model.study import OutboxRow

NOON = datetime(2026, 5, 4, 12)
END = Position("bin.000007", 4)


class Outbox:
    """Rows by when they were recorded; ``unsettled`` are among them."""

    def __init__(self, recorded: list[datetime]) -> None:
        self.recorded = recorded
        self.clock = NOON

    def at(self, epoch: int) -> Outbox:
        return self

    def now(self) -> datetime:
        return self.clock

    def newest(self, not_after: datetime) -> datetime | None:
        return max((moment for moment in self.recorded if moment <= not_after), default=None)

    def ids_after(self, mark: Any, limit: int, leave_out: Any) -> list[tuple[datetime, int]]:
        return [(moment, number) for number, moment in enumerate(self.recorded)]

    def rows(self, ids: list[int]) -> list[Any]:
        return []


def an_audit(recorded: list[datetime], unsettled: set[int] = frozenset()) -> tuple[Any, Any]:  # type: ignore[assignment]
    engine: Any = MagicMock()
    engine.source.epoch, engine.progress.until = 1, datetime(2020, 1, 1)
    core = engine.inside.return_value.__enter__.return_value
    core.parts.progress.is_settled.side_effect = lambda row_id: row_id not in unsettled
    core.parts.progress.known.return_value = True
    core.parts.epoch = 1
    audit: Any = Audit(engine, lambda: END)
    audit._outbox = Outbox(recorded)
    return audit, core.propose_until


@pytest.mark.parametrize(
    ("recorded", "until"),
    [
        # As usual: ten minutes behind, since a transaction may record a row and commit it minutes later.
        ([NOON - timedelta(seconds=1)], NOON - HOLD_BACK),
        # A replica whose applier has stopped, or a quiet archive: what follows the newest row may be on its way.
        ([NOON - timedelta(hours=2)], NOON - timedelta(hours=2)),
        # Dated by hand, or by a clock that was wrong: it doesn't say how far the replica is.
        ([NOON - timedelta(hours=2), NOON + timedelta(hours=3)], NOON - timedelta(hours=2)),
    ],
    ids=["busy", "behind", "from the future"],
)
def test_until_never_passes_the_newest_visible_row(recorded: list[datetime], until: datetime) -> None:
    audit, propose = an_audit(recorded)
    audit.full()
    propose.assert_called_once_with(until, END)


def test_until_stays_before_what_is_not_settled() -> None:
    waits = NOON - timedelta(hours=1)
    audit, propose = an_audit([waits, NOON], unsettled={0})
    audit.full()
    ((until, _),) = (call.args for call in propose.call_args_list)
    assert waits - timedelta(minutes=2) < until < waits


def test_without_rows_it_does_not_move() -> None:
    audit, propose = an_audit([])
    audit.full()
    propose.assert_not_called()


def test_a_clock_that_went_back_is_noticed() -> None:
    told: list[str] = []
    audit, _ = an_audit([NOON])
    audit._clock_went_back = lambda: told.append("a pass")
    assert not audit.full().clock_went_back
    audit._outbox.clock = NOON - timedelta(seconds=1)
    assert not audit.full().clock_went_back
    audit._outbox.clock = NOON - timedelta(hours=1)
    assert audit.full().clock_went_back
    assert told == ["a pass"]


def test_until_goes_back_by_the_time_in_which_nobody_looked_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock may have gone back just after the last look; what was dated since then lies that much before now."""
    monotonic = 1000.0
    monkeypatch.setattr("cdc_indexer.jobs.audit.time.monotonic", lambda: monotonic)
    audit, _ = an_audit([NOON])
    audit._engine.progress.until = NOON - HOLD_BACK
    core = audit._engine.inside.return_value.__enter__.return_value
    audit.full()
    core.take_until_back.assert_not_called()
    # Two hours back at once, and 700 s until somebody looks.
    monotonic += 700
    audit._outbox.clock = NOON - timedelta(seconds=7200 - 700)
    audit.full()
    core.take_until_back.assert_called_once_with(NOON - timedelta(seconds=7200) - HOLD_BACK)


@pytest.mark.parametrize(
    ("passed", "shown", "back"),
    [
        # Two hours back, and nobody looked for three: it shows more than before all the same.
        (timedelta(hours=3), timedelta(hours=1), True),
        # Clocks run at different rates, and an answer may come late.
        (timedelta(hours=3), timedelta(hours=3, seconds=-10), False),
        (timedelta(seconds=60), timedelta(seconds=20), False),
        # A machine that slept: ours stood still.
        (timedelta(seconds=60), timedelta(hours=9), False),
    ],
    ids=["back", "rates", "late", "slept"],
)
def test_a_clock_is_measured_by_the_time_that_has_passed(
    monkeypatch: pytest.MonkeyPatch, passed: timedelta, shown: timedelta, back: bool
) -> None:
    monotonic = 1000.0
    monkeypatch.setattr("cdc_indexer.jobs.audit.time.monotonic", lambda: monotonic)
    audit, _ = an_audit([NOON])
    core = audit._engine.inside.return_value.__enter__.return_value
    audit.full()
    monotonic += passed.total_seconds()
    audit._outbox.clock = NOON + shown
    assert audit.full().clock_went_back is back
    if back:
        core.take_until_back.assert_called_once_with(NOON + shown - passed - HOLD_BACK)


def test_a_later_until_that_waits_for_the_stream_goes_back_as_well() -> None:
    """The stream hasn't come to the end of the log of then: once it has, new rows would lie before `until`."""
    audit, _ = an_audit([NOON])
    progress = Progress(Settled(NOON - timedelta(days=1)), position=Position("bin.000007", 4))
    audit._engine.progress = progress
    core = audit._engine.inside.return_value.__enter__.return_value
    core.propose_until.side_effect = progress.propose_until
    core.take_until_back.side_effect = progress.take_until_back
    audit._binlog_end = lambda: Position("bin.000007", 900)
    audit.full()
    audit._outbox.clock = NOON - timedelta(hours=2)
    audit._outbox.recorded = []
    audit.full()
    progress.end_transaction(Position("bin.000007", 900))
    assert progress.until == NOON - timedelta(days=1)


def test_each_full_audit_knows_which_rows_are_superseded() -> None:
    """After a log that was reset, or another server, the rows that waited are brought once more."""
    audit, _ = an_audit([NOON, NOON + timedelta(seconds=1)], unsettled={0, 1})
    core = audit._engine.inside.return_value.__enter__.return_value
    core.parts.progress.known.return_value = False
    values = {"study_pk": 5, "study_iuid": "1.2"}
    rows = [
        OutboxRow(number, "stored", moment, values) for number, moment in enumerate(audit._outbox.recorded)
    ]
    audit._outbox.rows = lambda ids: list(rows)
    audit._outbox.rows_after = lambda mark, limit, leave_out: []
    audit._outbox.newest_of = lambda pks: {5: (rows[1].recorded_at, 1)}
    told: list[list[bool]] = []

    def bring(rows: list[OutboxRow], epoch: int, superseded: Any) -> int:
        told.append([superseded(row) for row in rows])
        return len(rows)

    audit._engine.bring.side_effect = bring
    for _ in range(2):
        audit.full()
    assert told == [[True, False]] * 2


def test_the_clock_is_known_before_what_was_sent_before_the_start_is_read() -> None:
    """A version by this machine's clock, if that is ahead, would be ahead of its reading."""
    audit, _ = an_audit([NOON])
    table = TableReading(audit._engine, audit, MagicMock())
    table.full()
    called = [
        name for name, _, _ in audit._engine.mock_calls if name in ("measure_clock", "restore_unverified")
    ]
    assert called[:2] == ["measure_clock", "restore_unverified"]

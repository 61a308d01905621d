"""The sweep's own rules, with a clock of the test's: its rests, what is gone, the valves, and when a pass begins."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from cdc_indexer.flow.compare import Compared, compare
from cdc_indexer.flow.policy import Policy
from cdc_indexer.jobs import gone as gone_module
from cdc_indexer.jobs import sweep as sweep_module
from cdc_indexer.jobs.gone import GONE_AFTER_SECONDS, Gone
from cdc_indexer.jobs.passes import Pass
from cdc_indexer.jobs.sweep import Sweep
from cdc_indexer.jobs.sweeper import Sweeper
from cdc_indexer.model.errors import SourceChanged
from cdc_indexer.model.ledger import Entry
from cdc_indexer.model.study import study_document

STUDY: dict[str, object] = {
    "patient_pk": 1,
    "patient_id": "1-9",
    "patient_name": "A^B",
    "study_pk": 5,
    "study_iuid": "1.2",
    "study_datetime": None,
    "study_description": "a",
    "study_modality": "CT",
    "study_series": 1,
    "study_instances": 2,
}
DIGEST = study_document(STUDY, "c").digest


class Clock:
    """What waits moves it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.paused: list[float] = []

    def pause(self, seconds: float) -> None:
        self.paused.append(round(seconds, 6))
        self.seconds += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    one = Clock()
    for module in (sweep_module, gone_module):
        fake = SimpleNamespace(monotonic=lambda: one.seconds, time=lambda: one.seconds)
        monkeypatch.setattr(module, "time", fake)
    return one


def an_engine(*, held: int = 100, deletes: bool = True) -> Any:
    engine = MagicMock()
    engine.jobs, engine.meta, engine.source.epoch, engine.store.count = {}, {}, 1, held
    engine.inside.return_value.__enter__.return_value.parts.policy.deletes = deletes
    return engine


def a_sweep(engine: Any, clock: Clock, **options: Any) -> Any:
    sweep: Any = Sweep(engine, studies_per_second=2000, **options)
    sweep._pause = clock.pause
    sweep.sent = []
    sweep._send = sweep.sent.extend
    return sweep


def test_a_pass_rests_nine_times_as_long_as_each_page_took(clock: Clock) -> None:
    page = [{"study_pk": pk, "study_iuid": f"1.{pk}"} for pk in range(1, 201)]
    pages: list[tuple[float, Any]] = [(0.02, page), (0.005, page), (0.0, [])]

    def view_after(after_pk: int, limit: int) -> Any:
        took, found = pages.pop(0)
        clock.seconds += took
        return found

    sweep = a_sweep(an_engine(), clock)
    sweep._outbox = SimpleNamespace(view_after=view_after)
    sweep._compare = sweep._confirm = lambda *_: None
    assert sweep._read_part(0) is False
    # The second page was quick: 200 studies are a tenth of a second at 2,000 a second.
    assert clock.paused == [0.18, 0.095]


# What is gone


def some_gone(engine: Any, clock: Clock, count: int, there: tuple[str, ...] = (), recorded: int = 0) -> Gone:
    outbox: Any = SimpleNamespace(
        view_of=lambda uids: [{"study_iuid": uid} for uid in uids if uid in there],
        deleted=lambda study_pks: {f"2.{n}" for n in study_pks if n < recorded},
    )
    gone = Gone(engine, outbox, clock.pause, None)
    for n in range(count):
        gone.add(Entry(f"2.{n}", n, 1, bytes(16)))
    return gone


def test_gone_is_what_is_absent_in_two_readings_ten_minutes_apart(clock: Clock) -> None:
    gone = some_gone(an_engine(), clock, 3, there=("2.1",))  # stored again, under another pk perhaps
    clock.seconds = 400.0
    assert [entry.study_iuid for entry in gone.confirmed(1)] == ["2.0", "2.2"]
    assert clock.seconds >= GONE_AFTER_SECONDS == 600.0


def test_two_servers_agree_about_nothing(clock: Clock) -> None:
    """Both readings have to be in one epoch: a copy of the archive that answers now may lack what the other holds."""
    engine = an_engine()
    gone = some_gone(engine, clock, 1)
    engine.source.epoch = 2
    with pytest.raises(SourceChanged):
        gone.confirmed(1)


def test_deletions_that_are_ignored_are_no_difference(clock: Clock) -> None:
    gone, result = some_gone(an_engine(deletes=False), clock, 60), Pass()
    assert gone.count(gone.confirmed(1), result, accept=False) == ""
    assert (result.kept, result.extra) == (60, 0)


@pytest.mark.parametrize(
    ("held", "count", "goes"),
    [(1000, 50, True), (1000, 51, False), (10_000, 100, True), (10_000, 101, False)],
)
def test_the_valve_of_deletions(clock: Clock, held: int, count: int, goes: bool) -> None:
    """50, or one in a hundred."""
    gone = some_gone(an_engine(held=held), clock, count)
    for accept in (False, True):
        why = gone.count(gone.confirmed(1), Pass(), accept=accept)
        assert bool(why) == (not goes and not accept)
        assert not why or "reconcile --accept" in why


@pytest.mark.parametrize(("recorded", "goes"), [(9, False), (10, True)])
def test_deletions_with_a_row_of_their_own_do_not_count(clock: Clock, recorded: int, goes: bool) -> None:
    gone = some_gone(an_engine(), clock, 60, recorded=recorded)
    why = gone.count(gone.confirmed(1), Pass(), accept=False)
    assert why == "" if goes else why.startswith("51 studies would be deleted")


@pytest.mark.parametrize(("stale", "goes"), [(10, True), (11, False)])
def test_the_valve_after_another_server_answered(clock: Clock, stale: int, goes: bool) -> None:
    """Nothing is sent before it is known how much differs: a tenth at most."""
    for accept in (False, True):
        engine = an_engine()
        sweep = a_sweep(engine, clock, suspicious=True, accept=accept)
        sweep._gone = some_gone(engine, clock, 0)
        for n in range(stale):
            sweep._count(Compared(stale=[(f"3.{n}", n)]))
            assert accept or not sweep.sent
        sweep._send_kept_back()
        assert len(sweep.sent) == (stale if goes or accept else 0)
        assert ("another one than before" in sweep.result.held) == (not goes and not accept)


# When


def a_sweeper(state_dir: Path, every_hours: float, meta: dict[str, Any]) -> Any:
    engine = an_engine()
    engine.settings.state_dir, engine.settings.center = state_dir, "000"
    engine.settings.reconcile.every_hours = every_hours
    engine.meta, engine.store.rebuilt = meta, False
    engine.remember.side_effect = meta.__setitem__
    engine.sending.known.features = frozenset()
    return Sweeper(engine, MagicMock())


@pytest.mark.parametrize(("every_hours", "begins"), [(0.0, False), (1.0, True)])
def test_no_pass_by_itself_where_it_is_off(tmp_path: Path, every_hours: float, begins: bool) -> None:
    sweeper = a_sweeper(tmp_path, every_hours, {})
    assert sweeper._due() is None, "stream and table first"
    sweeper.ready()
    assert (sweeper._due() is not None) == begins
    # What may have hidden rows begins one all the same.
    sweeper.want("the database is away")
    assert sweeper._due().reason == "the database is away"


def test_without_a_binary_log_a_pass_an_hour(tmp_path: Path) -> None:
    for minutes, due in ((59, False), (61, True)):
        ended = datetime.now().astimezone() - timedelta(minutes=minutes)
        sweeper = a_sweeper(tmp_path, 0.0, {"last_pass": {"at": ended.isoformat()}})
        sweeper.table_only()
        assert (sweeper._due() is not None) == due


# What counts as a difference


@pytest.mark.parametrize(
    ("what", "policy", "entry", "counts"),
    [
        ("equal", {}, {"digest": DIGEST}, (0, 0, 0, 0)),
        ("unknown", {}, None, (1, 0, 0, 0)),
        ("changed", {}, {"digest": bytes(16)}, (0, 1, 0, 0)),
        ("changed, one version is all that goes", {"updates": False}, {"digest": bytes(16)}, (0, 0, 0, 1)),
        ("unknown, one version is all that goes", {"updates": False}, None, (1, 0, 0, 0)),
        ("rejected as it is", {}, {"rejected": DIGEST}, (0, 0, 0, 1)),
        ("rejected as it is, another is there", {}, {"digest": bytes(16), "rejected": DIGEST}, (0, 0, 0, 1)),
        ("rejected otherwise", {}, {"rejected": bytes(16)}, (1, 0, 0, 0)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_counts_as_a_difference(
    what: str, policy: dict[str, Any], entry: dict[str, Any] | None, counts: tuple[int, ...]
) -> None:
    """Nothing is sent day after day for what is left on purpose."""
    entries = {"1.2": Entry("1.2", 5, 1, **entry)} if entry is not None else {}
    found = compare(Policy("c", **policy), [STUDY], entries, scope_pk=0)
    assert (len(found.missing), len(found.stale), len(found.gone), found.kept) == counts


@pytest.mark.parametrize(("deletes", "gone"), [(True, 1), (False, 0)])
def test_a_deletion_that_is_ignored_is_kept(deletes: bool, gone: int) -> None:
    entries = {"1.2": Entry("1.2", 5, 1, DIGEST, deleted=True)}
    found = compare(Policy("c", deletes=deletes), [], entries, scope_pk=0)
    assert (len(found.gone), found.kept) == (gone, 1 - gone)

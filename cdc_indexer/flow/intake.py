"""Outbox rows come in, from the stream, the audit or a page: each is claimed once and becomes a hint (passive).

A study's first version needs no look at the view: its row goes out as a trigger recorded it, as soon as the ledger has said
that it doesn't know the study. The view is read afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta

from cdc_indexer.flow.case import Case, Hints
from cdc_indexer.flow.decide import is_first
from cdc_indexer.flow.looks import Looks
from cdc_indexer.flow.order import Delivery
from cdc_indexer.flow.parts import Parts
from cdc_indexer.flow.patients import PatientChange
from cdc_indexer.flow.progress import Columns
from cdc_indexer.model.ledger import Entry
from cdc_indexer.model.moment import EPOCH, Now, microseconds, moment
from cdc_indexer.model.position import Identity, Position
from cdc_indexer.model.study import Operation, OutboxRow, study_key

__all__ = ["Intake"]

#: A row older than this is never sent as it was recorded: its study is read (microseconds).
_OLD = timedelta(days=1) // timedelta(microseconds=1)


class Intake:
    """What holds always: a row that was taken is settled, or is a hint of exactly one case or patient's change."""

    def __init__(self, parts: Parts, looks: Looks) -> None:
        self._parts = parts
        self._looks = looks
        self._to_look_up: dict[str, Case] = {}
        self._forgotten = 0
        parts.forget_rows = self._forget_rows

    def take(self, row: OutboxRow, now: Now, *, streamed: bool = False, superseded: bool = False) -> bool:
        """Takes an outbox row unless it is known; whether it was new.

        ``superseded``: the table holds a newer row of the same study, so its own values are old.
        """
        parts = self._parts
        # What was written by hand may have no time. It is judged by its id anyway.
        usable = row.recorded_at is not None and row.recorded_at > EPOCH
        if usable and not streamed and row.recorded_at <= parts.progress.until:
            # `until` has passed it since the table was read, and its id is forgotten.
            return False
        if not parts.progress.claim(row.id, streamed=streamed):
            return False
        mark = (row.id, row.recorded_at if usable else moment(now.clock))
        if row.operation == Operation.PATIENT:
            self._take_patient(row, mark)
            return True
        key = study_key(row.study_iuid, row.study_pk)
        stored, deleted = row.operation == Operation.STORED, row.operation == Operation.DELETED
        known = parts.cases.get(key)
        case = self._looks.case_of(key, row.study_pk, row.study_iuid)
        recent = usable and microseconds(row.recorded_at) > max(now.clock - _OLD, parts.results.ledger_began)
        as_recorded = recent and not (superseded or parts.policy.stable)
        if stored and as_recorded and known is None and not case.known:
            case.first = row
            self._to_look_up[key] = case
            return True
        # What was deleted is told at once, and what was stored again after that.
        again = stored and case.known and case.entry is not None and case.entry.digest is None
        soon = deleted or superseded or not recent or (again and not parts.policy.stable)
        parts.cases.add_row(case, mark, now, soon=soon)
        if deleted:
            case.own_hints().join(Hints(gone=True, deleted=(mark[1], mark[0])))
        if isinstance(case.lease, Delivery):
            parts.order.promote(case.lease)
        return True

    def _take_patient(self, row: OutboxRow, mark: tuple[int, object]) -> None:
        parts = self._parts
        change = PatientChange(row.id, mark[1], row.patient_pk)  # type: ignore[arg-type]
        if parts.policy.updates:
            parts.patients.add(change)
        else:
            parts.settlement.end_changes([change])

    # --- the ledger --------------------------------------------------------------------------------------

    @property
    def looking_up(self) -> bool:
        """Whether the ledger is to be asked."""
        return bool(self._to_look_up)

    def to_look_up(self) -> tuple[int, list[str]]:
        """Studies of which the ledger is to be asked before their first version goes out, and a number for ``looked_up``."""
        return self._asking, list(self._to_look_up)

    @property
    def _asking(self) -> int:
        """It rises when what is being looked up may be old: the ledger is another, or the study was under way meanwhile."""
        return self._parts.results.ledger_epoch + self._forgotten

    def looked_up(self, number: int, keys: Iterable[str], entries: Mapping[str, Entry], now: Now) -> None:
        """What the ledger says of ``keys``; those that it doesn't know are absent from ``entries``."""
        parts = self._parts
        if number != self._asking:
            return
        for key in keys:
            case = self._to_look_up.pop(key, None)
            if case is None or case.first is None:
                continue
            row, case.first = case.first, None
            self._looks.learn(case, entries)
            mark = (row.id, row.recorded_at)
            # What the index was told before the ledger began, newer ones than this row perhaps, the ledger doesn't say.
            told = microseconds(row.recorded_at) <= parts.results.ledger_began
            if is_first(case.entry) and case.lease is None and not told:
                # What came meanwhile waits for its own look.
                own = Hints(rows=(mark,), live=True)
                parts.cases.take(case, self, own, now)
                self._looks.send_recorded(case, self, own, row, now)
            else:
                again = case.entry is not None and case.entry.digest is None
                parts.cases.add_row(case, mark, now, soon=again or told)

    def restore(self, entries: Iterable[Entry], now: Now) -> None:
        """First versions that were sent before a restart, and whose row in the view is still to be read."""
        for entry in entries:
            key = entry.study_iuid
            case = self._looks.case_of(key, entry.study_pk, "" if key.startswith("#") else key)
            self._looks.learn(case, {key: entry})
            self._parts.cases.schedule(case, now, soon=True)
            self._parts.cases.drop_if_idle(case)

    # --- the stream --------------------------------------------------------------------------------------

    def end_transaction(self, position: Position, columns: Columns | None = None) -> None:
        """The stream has read up to there: see Progress."""
        parts = self._parts
        parts.progress.end_transaction(position, columns)
        if parts.progress.moved:
            parts.results.moved()

    def restart_stream(
        self,
        position: Position | None,
        identity: Identity | None = None,
        columns: Columns | None = None,
        *,
        epoch: int | None = None,
        lost: bool = False,
    ) -> bool:
        """A new stream begins at ``position``, in that ``epoch``; whether it is on another server than before.

        Then, or when the position was ``lost`` (the server may be a restored one), what waits of the rows of before is
        forgotten: that a row isn't in this server's table doesn't say that it was pruned. Stream, audit and sweep bring it
        again.
        """
        parts = self._parts
        other = identity is not None and parts.progress.identity not in (None, identity)
        parts.progress.restart_stream(position, identity, columns)
        anew = other or lost
        parts.stream_epoch = epoch if epoch is not None else parts.epoch + anew
        parts.enter(parts.stream_epoch)
        if anew:
            parts.rows_epoch = parts.epoch
            self._forget_rows()
        parts.results.moved()
        return other

    def _forget_rows(self) -> None:
        parts = self._parts
        for change in parts.patients.drop():
            parts.progress.forget([change.row_id])
        self._looks.withdraw()
        self._forgotten += 1
        for key in list(self._to_look_up):
            case = self._to_look_up.pop(key)
            if case.first is not None:
                parts.progress.forget([case.first.id])
                case.first = None
        for case in list(parts.cases):
            case.verify_ids = ()
            self._looks.drop_rows(case.own_hints())
            parts.cases.drop_if_idle(case)

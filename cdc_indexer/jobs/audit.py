"""The audit: reads from the table what the binlog didn't bring, and says how far everything is settled.

The binlog makes the service fast; this makes it complete. It costs what was recorded since ``until``, not the table.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import structlog

from cdc_indexer.flow.observer import Condition
from cdc_indexer.model.moment import EPOCH
from cdc_indexer.model.position import Position
from cdc_indexer.model.settled import minute_of
from cdc_indexer.model.study import Operation, OutboxRow
from cdc_indexer.source.outbox import Mark, Outbox, open_for_long

if TYPE_CHECKING:
    from cdc_indexer.jobs.engine import Engine

log = structlog.get_logger("cdc_indexer")

__all__ = ["HOLD_BACK", "Audit", "Audited"]

PAGE = 500

#: ``until`` stays this far behind the server's clock: a transaction may record a row and commit it minutes later.
HOLD_BACK = timedelta(minutes=10)

#: How far back a quick audit looks behind the newest row it has seen. What commits later than that after it was
#: recorded is found by the next full one.
QUICK_OVERLAP = timedelta(seconds=2)

#: The widest intervals of settled ids are left out by the server; more of them would cost it more than they save.
_LEAVE_OUT = 20

_ID_MAX = 2**64 - 1

#: A clock is said to have gone back when it did so by more than this.
_CLOCK_SLACK = timedelta(seconds=2)

#: Or when it shows so much less than it must, by the time that has passed here: what waits for an answer, and clocks that
#: run at different rates (a thousandth), make no more of a difference. ``HOLD_BACK`` is ten times that.
_CLOCK_BEHIND = timedelta(minutes=1)


class Audited(NamedTuple):
    """What an audit did: rows that nobody had, and whether the server's clock was found to have gone back."""

    found: int
    clock_went_back: bool = False


class Audit:
    """Thread-safe: one at a time.

    ``binlog_end`` gives the end of the server's binlog now, None where there is none. ``clock_went_back`` is told when the
    server's clock has.
    """

    def __init__(
        self,
        engine: Engine,
        binlog_end: Callable[[], Position | None],
        clock_went_back: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._outbox = Outbox(engine.source)
        self._binlog_end = binlog_end
        self._clock_went_back = clock_went_back
        self._lock = threading.Lock()
        #: The server's clock, and ours that doesn't jump, when that was last asked for.
        self._clock: datetime | None = None
        self._clock_at = 0.0
        self._newest: datetime | None = None
        #: For whoever watches: the oldest row that wasn't settled when the last full audit read it, and the row that is
        #: being handed over now (both by recorded_at).
        self.oldest_unsettled: datetime | None = None
        self.handing_over: datetime | None = None
        #: A sentence while a transaction has been open for long.
        self.open_transaction: str | None = None
        self._open: Mark | None = None

    def full(self, *, on_page: Callable[[], None] = lambda: None) -> Audited:
        """Hands over every committed row after ``until`` that nobody has, and proposes a later ``until``.

        A row is superseded by a newer one of its study: it is one that the log didn't bring, or that waited for long.
        ``on_page``: called now and then, to show that it moves.

        Raises SourceError, and Stopped when the program ends meanwhile.
        """
        with self._lock:
            engine = self._engine
            epoch = engine.source.epoch
            outbox = self._outbox.at(epoch)
            now = outbox.now()
            engine.measure_clock(now)
            went_back = self._watch_clock(now)
            newest = outbox.newest(now) or EPOCH
            found, oldest_unsettled, oldest_open = self._read_all(outbox, epoch, on_page)
            self._watch_open(oldest_open, now)
            self.oldest_unsettled = oldest_unsettled
            # Not beyond the newest row: a replica whose applier stopped has yet to get what was recorded after it.
            until = minute_of(min(now - HOLD_BACK, newest))
            if oldest_unsettled is not None:
                # Just before it, since `until` itself counts as settled.
                until = min(until, minute_of(oldest_unsettled - timedelta(microseconds=1)))
            if until > engine.progress.until:
                # After the reading: whatever it saw is in the binlog before this place.
                end = self._binlog_end()
                with engine.inside() as core:
                    if epoch == engine.source.epoch:
                        core.propose_until(until, end)
            return Audited(found, went_back)

    def _read_all(
        self, outbox: Outbox, epoch: int, on_page: Callable[[], None]
    ) -> tuple[int, datetime | None, Mark | None]:
        """How many rows were new, when the oldest unsettled one was recorded, and the oldest that isn't committed."""
        engine = self._engine
        with engine.inside() as core:
            progress = core.parts.progress
            leave_out = progress.widest_settled(_LEAVE_OUT)
            mark: Mark = (progress.until, _ID_MAX)
        found = 0
        oldest_unsettled: datetime | None = None
        oldest_open: Mark | None = None
        while True:
            on_page()
            page = outbox.ids_after(mark, PAGE, leave_out)
            unknown: dict[int, datetime] = {}
            with engine.inside() as core:
                progress = core.parts.progress
                for recorded_at, row_id in page:
                    if progress.is_settled(row_id):
                        continue
                    if oldest_unsettled is None or recorded_at < oldest_unsettled:
                        oldest_unsettled = recorded_at
                    if not progress.known(row_id):
                        unknown[row_id] = recorded_at
            if unknown:
                rows = outbox.rows(list(unknown))
                seen = {row.id for row in rows}
                unknown = {row_id: at for row_id, at in unknown.items() if row_id not in seen}
                if unknown and oldest_open is None:
                    oldest_open = min((recorded_at, row_id) for row_id, recorded_at in unknown.items())
                found += self._hand_over(outbox, rows, epoch)
                # Two megabytes, which the next page shall not come on top of.
                del rows
            if len(page) < PAGE:
                return found, oldest_unsettled, oldest_open
            mark = page[-1]

    def _hand_over(self, outbox: Outbox, rows: list[OutboxRow], epoch: int, *, recent: bool = False) -> int:
        newest: dict[int, Mark] = {}
        if not recent:
            # Only a first version is ever sent as it was recorded. Of the others an archive may record one for each image.
            stored = {row.study_pk for row in rows if row.operation == Operation.STORED}
            newest = outbox.newest_of(sorted(stored))

        def superseded(row: OutboxRow) -> bool:
            self.handing_over = row.recorded_at
            mark = (row.recorded_at, row.id)
            return newest.get(row.study_pk, mark) > mark

        try:
            return self._engine.bring(rows, epoch, superseded=superseded)
        finally:
            self.handing_over = None

    def _watch_open(self, oldest: Mark | None, now: datetime) -> None:
        """Says a transaction that is open for long; twice seen, for a row may be rolled back or pruned between two reads."""
        again, self._open = oldest is not None and oldest == self._open, oldest
        before = self.open_transaction
        if oldest is None or not again:
            self.open_transaction = None
        elif said := open_for_long(oldest[0], now):
            self.open_transaction = said
        if self.open_transaction != before:
            self._engine.observer.condition(Condition.OPEN_TRANSACTION, self.open_transaction)
            if self.open_transaction:
                log.warning("a transaction stays open", reason=self.open_transaction)

    def quick(self) -> int:
        """Hands over what was recorded lately: the binlog has just shown something that can't be decoded."""
        with self._lock:
            engine = self._engine
            epoch = engine.source.epoch
            outbox = self._outbox.at(epoch)
            with engine.inside() as core:
                since = core.parts.progress.until
                leave_out = core.parts.progress.widest_settled(_LEAVE_OUT)
            if self._newest is not None:
                since = max(since, self._newest - QUICK_OVERLAP)
            mark: Mark = (since, _ID_MAX)
            found = 0
            while True:
                rows = outbox.rows_after(mark, PAGE, leave_out)
                found += self._hand_over(outbox, rows, epoch, recent=True)
                if rows:
                    mark = (rows[-1].recorded_at, rows[-1].id)
                    self._newest = max(self._newest or mark[0], mark[0])
                if len(rows) < PAGE:
                    return found

    def _watch_clock(self, now: datetime) -> bool:
        """Takes ``until`` back when the server's clock went back: new rows would be recorded before it.

        Their ids tell those rows that are still remembered apart; of the older ones the ledger knows what was sent.
        """
        before, self._clock = self._clock, now
        before_at, self._clock_at = self._clock_at, time.monotonic()
        until = self._engine.progress.until
        unseen = timedelta(seconds=self._clock_at - before_at) if before is not None else timedelta()
        went_back = now < until + HOLD_BACK / 2 or (
            before is not None
            and (now < before - _CLOCK_SLACK or now < before + unseen * 0.999 - _CLOCK_BEHIND)
        )
        if went_back:
            self._clock_went_back()
        # It may have gone back just after the last look, and rows are dated since then.
        if went_back:
            # Also where ``until`` lies before that: a later one may have been proposed, and waits for the stream.
            with self._engine.inside() as core:
                core.take_until_back(minute_of(now - unseen - HOLD_BACK))
            self._newest = None
        return went_back

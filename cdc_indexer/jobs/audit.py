"""The audit: reads from the table what the binlog didn't bring, and says how far everything is settled.

The binlog makes the service fast; this makes it complete. It costs what was recorded since ``until``, not the table.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from cdc_indexer.flow.pipeline import Pipeline
from cdc_indexer.flow.progress import Progress
from cdc_indexer.model.position import Position
from cdc_indexer.model.settled import minute_of
from cdc_indexer.model.study import Operation, OutboxRow
from cdc_indexer.source.outbox import Mark, Outbox

PAGE = 1000

#: ``until`` stays this far behind the server's clock: a transaction may record a row and commit it minutes later.
HOLD_BACK = timedelta(minutes=10)

#: How far back a quick audit looks behind the newest row it has seen. What commits later than that after it was
#: recorded is found by the next full one.
QUICK_OVERLAP = timedelta(seconds=2)

#: The widest intervals of settled ids are left out by the server; more of them would cost it more than they save.
_LEAVE_OUT = 20

_ID_MAX = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Audited:
    """What an audit did: rows that nobody had, and whether the server's clock was found to have gone back."""

    found: int
    clock_went_back: bool = False


class Audit:
    """Thread-safe: one at a time.

    ``binlog_end`` gives the end of the server's binlog now, None where there is none.
    """

    def __init__(
        self,
        outbox: Outbox,
        progress: Progress,
        pipeline: Pipeline,
        binlog_end: Callable[[], Position | None],
    ) -> None:
        self._outbox = outbox
        self._progress = progress
        self._pipeline = pipeline
        self._binlog_end = binlog_end
        self._lock = threading.Lock()
        self._clock: datetime | None = None
        self._newest: datetime | None = None
        #: For whoever watches: the database's clock minus ours, the oldest row that wasn't settled when the last full audit
        #: read it, and the row that is being handed over now (both by recorded_at).
        self.clock_difference_seconds = 0.0
        self.oldest_unsettled: datetime | None = None
        self.handing_over: datetime | None = None

    def close(self) -> None:
        """Lets go of its connection."""
        with self._lock:
            self._outbox.close()

    def now(self) -> datetime:
        """The server's clock; raises SourceError."""
        with self._lock:
            return self._outbox.now()

    def full(self, *, first: bool = False, on_page: Callable[[], None] = lambda: None) -> Audited:
        """Hands over every committed row after ``until`` that nobody has, and proposes a later ``until``.

        ``first``: before the first stream after a start; a row is then superseded by a newer one of its study.
        ``on_page``: called now and then, to show that it moves.

        Raises SourceError, and Stopped when the program ends meanwhile.
        """
        with self._lock:
            now = self._outbox.now()
            ours = datetime.now(timezone.utc).replace(tzinfo=None)
            self.clock_difference_seconds = (now - ours).total_seconds()
            went_back = self._watch_clock(now)
            found, oldest_unsettled = self._read_all(first, on_page)
            self.oldest_unsettled = oldest_unsettled
            until = minute_of(now - HOLD_BACK)
            if oldest_unsettled is not None:
                # Just before it, since `until` itself counts as settled.
                until = min(until, minute_of(oldest_unsettled - timedelta(microseconds=1)))
            if until > self._progress.until:
                # After the reading: whatever it saw is in the binlog before this place.
                self._progress.propose_until(until, self._binlog_end())
            return Audited(found, went_back)

    def _read_all(self, first: bool, on_page: Callable[[], None]) -> tuple[int, datetime | None]:
        progress, outbox = self._progress, self._outbox
        leave_out = progress.widest_settled(_LEAVE_OUT)
        mark: Mark = (progress.until, _ID_MAX)
        found = 0
        oldest_unsettled: datetime | None = None
        while True:
            on_page()
            page = outbox.ids_after(mark, PAGE, leave_out)
            unknown = []
            for recorded_at, row_id in page:
                if progress.is_settled(row_id):
                    continue
                if oldest_unsettled is None or recorded_at < oldest_unsettled:
                    oldest_unsettled = recorded_at
                if not progress.known(row_id):
                    unknown.append(row_id)
            if unknown:
                found += self._hand_over(outbox.rows(unknown), first)
            if len(page) < PAGE:
                return found, oldest_unsettled
            mark = page[-1]

    def _hand_over(self, rows: list[OutboxRow], first: bool) -> int:
        newest: dict[int, Mark] = {}
        if first:
            # Only a first version is ever sent as it was recorded. Of the others an archive may record one for each image.
            stored = {row.study_pk for row in rows if row.operation == Operation.STORED}
            newest = self._outbox.newest_of(sorted(stored))
        found = 0
        try:
            for row in rows:
                self.handing_over = row.recorded_at
                mark = (row.recorded_at, row.id)
                if self._pipeline.take(row, superseded=newest.get(row.study_pk, mark) > mark):
                    found += 1
        finally:
            self.handing_over = None
        return found

    def quick(self) -> int:
        """Hands over what was recorded lately: the binlog has just shown something that can't be decoded."""
        with self._lock:
            since = self._progress.until
            if self._newest is not None:
                since = max(since, self._newest - QUICK_OVERLAP)
            mark: Mark = (since, _ID_MAX)
            leave_out = self._progress.widest_settled(_LEAVE_OUT)
            found = 0
            while True:
                rows = self._outbox.rows_after(mark, PAGE, leave_out)
                found += self._hand_over(rows, first=False)
                if rows:
                    mark = (rows[-1].recorded_at, rows[-1].id)
                    self._newest = max(self._newest or mark[0], mark[0])
                if len(rows) < PAGE:
                    return found

    def _watch_clock(self, now: datetime) -> bool:
        """Takes ``until`` back when the server's clock went back: new rows would be recorded before it.

        Their ids tell those rows that are still remembered apart; older ones are sent again, with their old key.
        """
        before, self._clock = self._clock, now
        went_back = now < self._progress.until + HOLD_BACK / 2 or (
            before is not None and now < before - timedelta(seconds=2)
        )
        if went_back and now - HOLD_BACK < self._progress.until:
            self._progress.take_until_back(minute_of(now - HOLD_BACK))
            self._newest = None
        return went_back

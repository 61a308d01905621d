"""How far `run` is: asked of its parts every second, and told to the observer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta, timezone

from cdc_indexer.flow.observer import Sample
from cdc_indexer.flow.verdict import Gate
from cdc_indexer.jobs.audit import Audit
from cdc_indexer.jobs.engine import Engine
from cdc_indexer.jobs.lag import Lag
from cdc_indexer.jobs.silence import Silence
from cdc_indexer.jobs.triggers import TriggersWatch
from cdc_indexer.model import failpoints
from cdc_indexer.model.errors import IndexerError
from cdc_indexer.model.position import Position
from cdc_indexer.model.study import OutboxRow
from cdc_indexer.source import catalogue
from cdc_indexer.source.binlog import TransactionEnd

#: The server is asked how long its binary log is, and the parked store what it holds, this often.
_ASK_SECONDS = 5.0

#: The end of the program waits for that at most so long.
_STOP_SECONDS = 1.0

#: So many of the reasons for which studies are parked are told.
_REASONS = 5


class Sampler:
    """The worker says what it reads, the main thread calls ``tell``, and a thread of its own asks what takes time."""

    def __init__(
        self, engine: Engine, audit: Audit, stopping: threading.Event, sweep: Callable[[str], None]
    ) -> None:
        self._engine = engine
        self._audit = audit
        self._stopping = stopping
        self._lag = Lag()
        self._rows_read = 0
        self._bytes_read = 0
        self._read_to: Position | None = None
        #: The last that the server has said is that it has nothing more.
        self._is_quiet = False
        self._moved_at = time.monotonic()
        self._finished = 0
        #: Since when the stream is lost (seconds since 1970); at first since the last process wrote its checkpoint.
        self._lost_at: float | None = engine.writer.written_at or time.time()
        self._lag_bytes: int | None = None
        self._ask_now = threading.Event()
        self._parked_seen = 0
        self._parked = 0
        self._parked_reasons: tuple[tuple[str, int], ...] = ()
        self._ask_seconds = failpoints.seconds("sampler", _ASK_SECONDS)
        self._triggers = TriggersWatch(engine, sweep)
        self._silence = Silence(engine)
        self._thread = threading.Thread(target=self._ask_all, name="sampler", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it; ``stopping`` is set."""
        self._ask_now.set()
        if self._thread.ident is not None:
            # A server that doesn't answer isn't waited for: the thread has nothing to finish.
            self._thread.join(_STOP_SECONDS)

    # --- what the worker says ----------------------------------------------------------------------------

    def moved(self) -> None:
        """The loop has done a turn."""
        self._moved_at = time.monotonic()

    @property
    def idle_seconds(self) -> float:
        """Since the loop has done a turn."""
        return time.monotonic() - self._moved_at

    def connected(self, position: Position | None) -> None:
        """A stream begins there."""
        self._lag.restart()
        self._read_to = position
        self._is_quiet = False
        self._lost_at = None
        self._ask_now.set()
        self.moved()

    def lost(self) -> None:
        """The stream has ended."""
        if self._lost_at is None:
            self._lost_at = time.time()
        self.moved()

    def rows(self, rows: Sequence[OutboxRow]) -> None:
        """These were read."""
        self._rows_read += len(rows)
        if rows:
            self._lag.rows(rows[0].recorded_at)

    def end(self, event: TransactionEnd) -> None:
        """The log was read up to there."""
        position, before = event.position, self._read_to
        if before is not None and before.file == position.file:
            self._bytes_read += max(0, position.offset - before.offset)
        else:
            self._bytes_read += position.offset
        self._read_to = position
        self._is_quiet = False
        self._lag.end(position, datetime(1970, 1, 1) + timedelta(seconds=event.at))

    def quiet(self) -> None:
        """The server has nothing more to send."""
        self._is_quiet = True
        self._lag.quiet()

    # --- what is told ------------------------------------------------------------------------------------

    def tell(self) -> None:
        """Tells the observer."""
        engine = self._engine
        progress = engine.progress
        finished = engine.delivered_count + engine.parked_count
        if finished != self._finished:
            self._finished = finished
            self.moved()
        if engine.parked_count != self._parked_seen:
            self._parked_seen = engine.parked_count
            self._ask_now.set()
        position, identity = progress.position, progress.identity
        engine.observer.sampled(
            Sample(
                position=str(position) if position is not None else None,
                server=identity.server if identity is not None else None,
                settled_until=progress.until,
                lag_seconds=self._lag_seconds(position),
                lag_bytes=self._lag_bytes,
                queued=engine.core.parts.order.pending,
                waiting=len(engine.core.parts.cases),
                parked=self._parked,
                parked_reasons=self._parked_reasons,
                checkpoint_at=engine.writer.written_at,
                rows_read=self._rows_read,
                bytes_read=self._bytes_read,
                clock_difference_seconds=self._engine.clock_difference_seconds,
                idle_seconds=self.idle_seconds,
                blocked=engine.waits_for_others,
                at_index=engine.store.held,
            )
        )

    def _lag_seconds(self, position: Position | None) -> float:
        clock = time.time()
        now = datetime.fromtimestamp(clock, timezone.utc).replace(tzinfo=None)
        now += timedelta(seconds=self._engine.clock_difference_seconds)
        engine = self._engine
        # With an index that takes what it is sent, what isn't settled waits for quiet or for its images to be counted.
        order = engine.core.parts.order
        on_purpose = (
            engine.core.parts.policy.stable and order.gate is Gate.OPEN and not order.full(behind=False)
        )
        lag = self._lag.seconds(position, now, self.idle_seconds, on_purpose=on_purpose)
        if self._lost_at is not None:
            # What was committed since then nobody has read.
            lag = max(lag, clock - self._lost_at)
        handed_over = self._audit.handing_over
        if handed_over is None and position is None and engine.progress.claimed_count and not on_purpose:
            handed_over = self._audit.oldest_unsettled
        if handed_over is not None:
            lag = max(lag, (now - handed_over).total_seconds())
        return lag

    # --- what takes time to find out ---------------------------------------------------------------------

    def _ask_all(self) -> None:
        while not self._stopping.is_set():
            self._ask_parked()
            self._lag_bytes = self._ask_bytes()
            self._triggers.look()
            self._silence.look()
            self._ask_now.wait(self._ask_seconds)
            self._ask_now.clear()

    def _ask_parked(self) -> None:
        # While the store can't be read the last answer stands; that it can't is said by who writes it.
        with suppress(IndexerError):
            store = self._engine.retries.studies
            self._parked = store.count
            self._parked_reasons = store.reasons(_REASONS) if self._parked else ()

    def _ask_bytes(self) -> int | None:
        position = self._engine.progress.position
        if position is None:
            return None
        if self._is_quiet and position == self._read_to:
            # It has said so itself; an idle service asks nothing.
            return 0
        try:
            with self._engine.source.session(database=False) as session:
                return catalogue.bytes_behind(session, position)
        except IndexerError:
            # The stream meets the same and says so.
            return None

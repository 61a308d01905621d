"""How far behind the database's commits the index is, in seconds (pure)."""

from __future__ import annotations

import threading
from collections import deque
from datetime import datetime, timedelta

from cdc_indexer.model.position import Position

#: A stream that has brought nothing for so long has nothing to bring.
QUIET_SECONDS = 1.0

_SECOND = timedelta(seconds=1)


class Lag:
    """Told by the thread that follows the stream, asked by another one; times are naive UTC of the database's clock.

    A row counts from its recording until the position has passed its transaction, so what is queued, held or waits
    for quiet counts as well.
    """

    def __init__(self) -> None:
        #: (end of a transaction of ours, when its first row was recorded); one for each second, so there are few.
        self._ends: deque[tuple[tuple[int, int], datetime]] = deque()
        self._lock = threading.Lock()
        self._reading: datetime | None = None
        self._read_at: datetime | None = None

    def restart(self) -> None:
        """A new stream begins."""
        with self._lock:
            self._ends.clear()
        self._reading = None
        self._read_at = None

    def rows(self, recorded_at: datetime) -> None:
        """Rows of ours were read; the first of them was recorded then."""
        if self._reading is None:
            self._reading = recorded_at

    def end(self, position: Position, at: datetime) -> None:
        """A transaction was read to its end; the server committed it at ``at``."""
        self._read_at = at
        reading, self._reading = self._reading, None
        if reading is None:
            return
        with self._lock:
            ends = self._ends
            if ends and abs(reading - ends[-1][1]) < _SECOND:
                ends[-1] = (position.order, ends[-1][1])
            else:
                ends.append((position.order, reading))

    def quiet(self) -> None:
        """The server has nothing more to send."""
        self._read_at = None

    def seconds(
        self, settled: Position | None, now: datetime, quiet_seconds: float, *, on_purpose: bool = False
    ) -> float:
        """Since when the oldest row waits, or for how long the stream is behind.

        ``settled`` is the checkpoint's position, ``now`` the database's time, ``quiet_seconds`` since when nothing was read.
        ``on_purpose``: what was read and isn't settled waits for quiet (`send: stable`), and doesn't count.
        """
        with self._lock:
            ends = self._ends
            if settled is not None:
                while ends and ends[0][0] <= settled.order:
                    ends.popleft()
            unsettled = ends[0][1] if ends and not on_purpose else self._reading
        oldest = unsettled
        if oldest is None and self._read_at is not None and quiet_seconds < QUIET_SECONDS:
            # In whole seconds, as the log has it.
            oldest = min(now, self._read_at + _SECOND)
        return max(0.0, (now - oldest).total_seconds()) if oldest is not None else 0.0

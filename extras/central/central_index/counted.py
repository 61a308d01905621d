"""What takes long to count is counted now and then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

#: Counting takes at most so small a part of the time.
_PART = 100
#: So few are counted for each who asks.
_FEW = 10_000
#: Who asks waits so long at most.
_PATIENCE_SECONDS = 1.0

Counts = dict[str, int]


class Counted:
    """How many of each there are, by one count at a time. While they are few, each who asks gets it anew.

    ``are_many``: whether it is known without counting that it takes long.
    """

    def __init__(
        self, count: Callable[[], Awaitable[Counts]], are_many: Callable[[], bool] = lambda: False
    ) -> None:
        self._count = count
        self._are_many = are_many
        self._counting: asyncio.Task[Counts] | None = None
        #: What was counted last, and when it is old.
        self._last: tuple[Counts, float] | None = None

    async def get(self) -> Counts | None:
        """None while it is counted for the first time and takes long. Raises what counting raises."""
        if self._last is not None and time.monotonic() < self._last[1]:
            return self._last[0]
        counting = self._counting
        if counting is None or counting.done():
            counting = self._counting = asyncio.create_task(self._count_once())
            # Perhaps nobody waits for it.
            counting.add_done_callback(lambda done: done.cancelled() or done.exception())
        if self._last is not None:
            # It takes long: the old one does until the new one is there.
            return self._last[0]
        await asyncio.wait([counting], timeout=0 if self._are_many() else _PATIENCE_SECONDS)
        return counting.result() if counting.done() else None

    async def close(self) -> None:
        if self._counting is not None and not self._counting.done():
            self._counting.cancel()
            await asyncio.wait([self._counting])

    async def _count_once(self) -> Counts:
        began = time.monotonic()
        found = await self._count()
        took = time.monotonic() - began
        many = sum(found.values()) > _FEW
        self._last = (found, began + took * _PART) if many else None
        return found

"""What takes long to count is counted now and then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")

#: Counting takes at most so small a part of the time.
_PART = 100
_QUICK_SECONDS = 0.02
#: Who asks waits so long at most.
_PATIENCE_SECONDS = 1.0


class Counted(Generic[_T]):
    """One number or more, by one count at a time. While that is quick, each who asks gets it anew."""

    def __init__(self, count: Callable[[], Awaitable[_T]]) -> None:
        self._count = count
        self._counting: asyncio.Task[_T] | None = None
        #: What was counted last, and when it is old.
        self._last: tuple[_T, float] | None = None

    async def get(self) -> _T | None:
        """None while it is counted for the first time and takes long. Raises what counting raises."""
        if self._last is not None and time.monotonic() < self._last[1]:
            return self._last[0]
        if self._counting is None or self._counting.done():
            self._counting = asyncio.create_task(self._count_once())
        if self._last is not None:
            # It takes long: the old one does until the new one is there.
            return self._last[0]
        done, _ = await asyncio.wait([self._counting], timeout=_PATIENCE_SECONDS)
        return self._counting.result() if done else None

    async def close(self) -> None:
        if self._counting is not None and not self._counting.done():
            self._counting.cancel()
            await asyncio.wait([self._counting])

    async def _count_once(self) -> _T:
        began = time.monotonic()
        found = await self._count()
        took = time.monotonic() - began
        self._last = (found, began + took * _PART) if took > _QUICK_SECONDS else None
        return found

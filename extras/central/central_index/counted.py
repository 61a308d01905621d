"""What takes long to count is counted now and then."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")

#: Counting takes at most so small a part of the time.
_PART = 20
_QUICK_SECONDS = 0.02


class Counted(Generic[_T]):
    """One number or more. While it is quick, each who asks gets it anew."""

    def __init__(self) -> None:
        self._last: tuple[_T, float] | None = None

    async def get(self, count: Callable[[], Awaitable[_T]]) -> _T:
        if self._last is not None and time.monotonic() < self._last[1]:
            return self._last[0]
        began = time.monotonic()
        found = await count()
        took = time.monotonic() - began
        self._last = (found, began + took * _PART) if took > _QUICK_SECONDS else None
        return found

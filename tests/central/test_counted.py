"""Counting beside the requests."""

from __future__ import annotations

import asyncio

import pytest

from central_index import counted
from central_index.counted import Counted


class Slow:
    """Counts so many, each time one more, when it is let."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.counts = 0
        self.let = asyncio.Event()

    async def __call__(self) -> dict[str, int]:
        self.counts += 1
        number = self.number
        await self.let.wait()
        self.number += 1
        return {"000": number}


def test_few_are_counted_for_each_who_asks_and_one_at_a_time() -> None:
    async def run() -> None:
        slow = Slow(7)
        slow.let.set()
        one = Counted(slow)
        assert await one.get() == {"000": 7}
        assert await one.get() == {"000": 8}
        slow.let.clear()

        async def twice() -> list[dict[str, int] | None]:
            # Asks again at once, while the others still look at what was counted for all.
            return [await one.get(), await one.get()]

        asked = [asyncio.create_task(twice()) for _ in range(20)]
        await asyncio.sleep(0)
        slow.let.set()
        assert None not in [number for task in asked for number in await task]
        assert slow.counts == 4

    asyncio.run(run())


def test_nobody_waits_where_they_are_known_to_be_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counted, "_PATIENCE_SECONDS", 60.0)

    async def run() -> None:
        slow = Slow(1_000_000)
        one = Counted(slow, lambda: True)
        assert await asyncio.wait_for(one.get(), 1) is None
        slow.let.set()
        await asyncio.sleep(0.01)
        assert await one.get() == {"000": 1_000_000}

    asyncio.run(run())


def test_nobody_waits_for_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counted, "_PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(counted, "_PART", 0)

    async def run() -> None:
        slow = Slow(1_000_000)
        one = Counted(slow)
        assert await one.get() is None
        slow.let.set()
        await asyncio.sleep(0.02)
        slow.let.clear()
        # The old number, while the next is counted.
        assert await one.get() == {"000": 1_000_000}
        assert await one.get() == {"000": 1_000_000}
        await asyncio.sleep(0)
        assert slow.counts == 2
        await one.close()

    asyncio.run(run())


def test_what_goes_wrong_is_said_to_who_asks() -> None:
    async def fails() -> dict[str, int]:
        raise OSError

    async def run() -> None:
        one = Counted(fails)
        with pytest.raises(OSError):
            await one.get()

    asyncio.run(run())

"""That something changed, from each process to all: LISTEN and NOTIFY."""

from __future__ import annotations

import asyncio
import contextlib

import psycopg

from central_index.model import OnChange

_CHANNEL = "central_index_changed"
#: NOTIFY takes a lock that all of a database share when it commits: now and then, and never with the studies.
_APART_SECONDS = 1.0
_AGAIN_SECONDS = 2.0


class Listener:
    """Says here what another process wrote, and there what this one did."""

    def __init__(self, database: str, on_change: OnChange) -> None:
        self._database = database
        self._on_change = on_change
        self._written = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._tell())]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def changed(self) -> None:
        """This process wrote something."""
        self._on_change()
        self._written.set()

    async def _listen(self) -> None:
        while True:
            with contextlib.suppress(psycopg.Error):
                async with await self._connection() as connection:
                    await connection.execute(f"LISTEN {_CHANNEL}")
                    # What was said while nobody listened.
                    self._on_change()
                    async for _ in connection.notifies():
                        self._on_change()
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _tell(self) -> None:
        while True:
            with contextlib.suppress(psycopg.Error):
                async with await self._connection() as connection:
                    while True:
                        await self._written.wait()
                        self._written.clear()
                        await connection.execute(f"NOTIFY {_CHANNEL}")
                        await asyncio.sleep(_APART_SECONDS)
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _connection(self) -> psycopg.AsyncConnection[tuple[object, ...]]:
        return await psycopg.AsyncConnection.connect(
            self._database,
            autocommit=True,
            target_session_attrs="read-write",
            connect_timeout=5,
            application_name="central-index news",
        )

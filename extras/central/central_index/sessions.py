"""Who has logged in on the page: the cookie, and what the store remembers of it."""

from __future__ import annotations

import hashlib
import secrets
import time

from central_index.store import Store

COOKIE = "central_session"
#: A working day; logging in again takes a paste.
LONGEST_SECONDS = 12 * 3600


class Sessions:
    """In the store, so that every process knows them; their names only as a digest, so that no copy of it logs in."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def open(self, key_digest: bytes) -> str:
        """The secret for the cookie."""
        name = secrets.token_urlsafe(32)
        await self._store.open_session(_digest(name), key_digest, time.time() + LONGEST_SECONDS)
        return name

    async def key_digest(self, name: str) -> bytes | None:
        """Of the key that the session was opened with; whether that still counts is for `Keys` to say."""
        return await self._store.session(_digest(name), time.time()) if name else None

    async def close(self, name: str) -> None:
        if name:
            await self._store.close_session(_digest(name))


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode(errors="replace")).digest()

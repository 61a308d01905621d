"""Who has logged in on the page."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

COOKIE = "central_session"
#: A working day; logging in again takes a paste.
LONGEST_SECONDS = 12 * 3600
_MOST = 1_000


@dataclass(slots=True)
class _Session:
    key_digest: bytes
    until: float


class Sessions:
    """In memory: a restart of the index logs everybody out."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._sessions: dict[str, _Session] = {}

    def open(self, key_digest: bytes) -> str:
        """The secret for the cookie."""
        now = self._now()
        self._sessions = {name: one for name, one in self._sessions.items() if one.until > now}
        while len(self._sessions) >= _MOST:
            del self._sessions[next(iter(self._sessions))]
        name = secrets.token_urlsafe(32)
        self._sessions[name] = _Session(key_digest, now + LONGEST_SECONDS)
        return name

    def key_digest(self, name: str) -> bytes | None:
        """Of the key that the session was opened with; whether that still counts is for `Keys` to say."""
        session = self._sessions.get(name)
        return session.key_digest if session is not None and session.until > self._now() else None

    def close(self, name: str) -> None:
        self._sessions.pop(name, None)

"""``checkpoint.json``: how far it is, for people and for monitoring. Deleting or damaging it changes nothing."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cdc_indexer.state.lock import own_as_directory

__all__ = ["FILE_NAME", "CheckpointCopy", "read"]

FILE_NAME = "checkpoint.json"

#: 1 and 2 were the state itself, of versions before state.sqlite.
FORMAT = 3

EVERY_SECONDS = 5.0
_MAX_BYTES = 1_000_000


class CheckpointCopy:
    """Written by whoever writes the state; ``meta`` is the state's at the start."""

    def __init__(
        self, state_dir: Path, meta: Mapping[str, Any], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = state_dir / FILE_NAME
        self._temporary = state_dir / "checkpoint.new"
        self._meta = dict(meta)
        self._clock = clock
        self._changed = True
        self._next = clock()

    def note(self, meta: Mapping[str, Any]) -> bool:
        """This is durable now; whether it should be written at once. From the writer's thread; the rest from one other."""
        # The first position of all: whoever looks whether the service has begun sees it at once.
        first = "identity" in meta and "identity" not in self._meta
        if first:
            self._next = self._clock()
        if meta:
            self._meta = {**self._meta, **meta}
            self._changed = True
        return first

    def write(self, *, now: bool = False) -> None:
        """Writes the file if something changed and it is time, or with ``now`` in any case."""
        if not (now or (self._changed and self._clock() >= self._next)):
            return
        self._next = self._clock() + EVERY_SECONDS
        self._changed = False
        # Whether it can be written is nobody's worry but the state's.
        with suppress(OSError):
            self._replace(render(self._meta))

    def _replace(self, text: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(self._temporary, flags, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            own_as_directory(descriptor, self._path.parent)
            file.write(text)
        self._temporary.rename(self._path)


def render(meta: Mapping[str, Any]) -> str:
    """The file's text."""
    moment = datetime.now(timezone.utc).isoformat(timespec="milliseconds")[:-6]
    document = {
        "format": FORMAT,
        "note": "a copy for people: the state is in state.sqlite",
        "time": f"{moment}Z",
        "source": meta.get("identity"),
        "center": meta.get("center"),
        "position": meta.get("position"),
        "settled": {"until": meta.get("until")},
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def read(state_dir: Path) -> dict[str, Any] | None:
    """What the file says; None when it isn't there or isn't whole."""
    try:
        descriptor = os.open(
            state_dir / FILE_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        )
        with os.fdopen(descriptor, "rb") as file:
            document = json.loads(file.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        return None
    return document

"""How `initial` asks a running `run` to feed it, and learns how far that is: two small files in the state directory.

``initial.request.json`` is the request: while it is there, `run` feeds; who takes it away, cancels. `run` answers in
``initial.progress.json`` and takes the request away when all is sent.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from cdc_indexer.model.errors import StorageError

REQUEST = "initial.request.json"
PROGRESS = "initial.progress.json"


def write(state_dir: Path, name: str, content: dict[str, Any]) -> None:
    """Replaces one of the two files; raises StorageError."""
    path = state_dir / name
    temporary = path.with_suffix(".new")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file)
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"{path} can't be written ({error.strerror}).") from None


def read(state_dir: Path, name: str) -> dict[str, Any] | None:
    """One of the two files; None when it isn't there or isn't whole."""
    try:
        content = json.loads((state_dir / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def remove(state_dir: Path, name: str) -> None:
    """Takes one of the two files away, if it is there."""
    with suppress(OSError):
        (state_dir / name).unlink()

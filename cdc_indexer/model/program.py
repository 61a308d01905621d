"""How this program is called, decided here alone: `cdc-indexer`, unless it was started otherwise.

Remedies that are pasted have it as it works from anywhere (a venv's command isn't on the PATH); sentences are made with
`cdc-indexer`, and are turned into that where they are shown.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

__all__ = ["SQL", "as_called", "called", "command"]

_NAME = "cdc-indexer"
_HEAD_BYTES = 1000

#: What makes table, view and triggers, for sentences; ``name`` is the database's.
SQL = "the SQL (`cdc-indexer sql | mysql {name}`, with `--arc5` for dcm4chee-arc 5)"


def command(*arguments: str, config: Path | None = None) -> str:
    """A line for a shell. ``config``: the file of settings, named unless it is the one of the working directory."""
    options = [] if config is None or config == Path("config.json").absolute() else ["--config", str(config)]
    return shlex.join((*_program(), *options, *arguments))


def called() -> str:
    """What is typed before a command's name."""
    return shlex.join(_program())


def as_called(text: str) -> str:
    """A sentence, with what it says to type as this process was started."""
    return text.replace(f"`{_NAME} ", f"`{called()} ") if f"`{_NAME} " in text else text


def _program() -> tuple[str, ...]:
    found = shutil.which(_NAME)
    if found is not None and _is_ours(Path(found)):
        return (_NAME,)
    started = Path(sys.argv[0])
    if started.name == _NAME:
        return (str(started.absolute()),)
    return (sys.executable, "-m", "cdc_indexer")


def _is_ours(command: Path) -> bool:
    """Whether a command is this program: pip's script and the package's both name its Python in their first lines."""
    try:
        if command.samefile(sys.argv[0]):
            return True
    except OSError:
        pass
    try:
        with command.open("rb") as file:
            return os.fsencode(Path(sys.executable).parent / "python") in file.read(_HEAD_BYTES)
    except OSError:
        return False

"""How this program is called from anywhere, for remedies that are pasted: a venv's command isn't on the PATH."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

__all__ = ["command"]

_NAME = "cdc-indexer"


def command(*arguments: str, config: Path | None = None) -> str:
    """A line for a shell. ``config``: the file of settings, named unless it is the one of the working directory."""
    options = [] if config is None or config == Path("config.json").absolute() else ["--config", str(config)]
    return shlex.join((*_program(), *options, *arguments))


def _program() -> list[str]:
    called = Path(sys.argv[0])
    if called.name != _NAME:
        return [sys.executable, "-m", "cdc_indexer"]
    found = shutil.which(_NAME)
    if found is not None and called.exists() and Path(found).samefile(called):
        return [_NAME]
    return [str(called.absolute())]

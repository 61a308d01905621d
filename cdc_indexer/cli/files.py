"""The files that a command reads when it is called, and again when it is told to."""

# ruff: noqa: PLC0415 - imports inside, as in __init__.py
from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdc_indexer.model.settings import Settings

__all__ = ["Files"]


class _Stderr:
    """sys.stderr as it is at the moment of writing: a progress bar puts itself in front of it."""

    encoding = property(lambda self: sys.stderr.encoding)

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def isatty(self) -> bool:
        return sys.stderr.isatty()


class Files:
    """The settings as config.json says now, and the log as they want it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._settings: Settings | None = None

    def load(self) -> Settings:
        """Reads the files; raises ConfigError."""
        from cdc_indexer.model.settings import load_settings
        from cdc_indexer.monitor import logs

        settings = load_settings(self._path)
        old = self._settings
        if old is None or (old.log, old.secrets) != (settings.log, settings.secrets):
            logs.configure(settings.log, _Stderr(), secrets=settings.secrets)
        self._settings = settings
        return settings

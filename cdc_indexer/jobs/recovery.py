"""What happened -> what is done: the recovery of `run`, as a table (pure)."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from cdc_indexer.flow.observer import Source
from cdc_indexer.model.errors import (
    FatalError,
    IndexerError,
    NoBinlog,
    PositionLost,
    SchemaError,
    ServerIdClash,
    SourceChanged,
    SourceError,
    SourceFull,
    SourceRefused,
    Stopped,
    StorageError,
)

__all__ = ["CLASH_PAUSE_SECONDS", "Recovery", "Then", "recovery"]

#: Who was thrown out by a namesake waits: two that fight would only throw each other out in turn.
CLASH_PAUSE_SECONDS = 60.0


class Then(Enum):
    """What is done."""

    #: Connect again, and go on from the position.
    GO_ON = "go on"
    #: Connect again, take a position at the end of the log, read the table.
    FRESH_POSITION = "fresh position"
    #: Read the table every few seconds, and ask for the log now and then.
    TABLE_ONLY = "table only"
    #: The program ends: it was asked to, or only a person can mend it.
    END = "end"


class Recovery(NamedTuple):
    """What is done after an error.

    Attributes:
        pause_seconds: before that; None: as long as the backoff says.
        source: what the monitor is told of the database; None: nothing.
        said: the line of the log, and its level; empty: none, somebody else says it.
        sweep: afterwards the whole view is compared with the ledger, since rows may have been missed.
    """

    then: Then
    pause_seconds: float | None = None
    source: Source | None = None
    said: str = ""
    level: str = "warning"
    sweep: bool = False


_TABLE: tuple[tuple[type[IndexerError], Recovery], ...] = (
    (Stopped, Recovery(Then.END)),
    (FatalError, Recovery(Then.END)),
    (
        NoBinlog,
        Recovery(
            Then.TABLE_ONLY,
            0.0,
            Source.DEGRADED,
            "degraded: the table is read every few seconds instead of the binary log",
            "error",
            sweep=True,
        ),
    ),
    (PositionLost, Recovery(Then.FRESH_POSITION, None, Source.POSITION, "position lost", sweep=True)),
    (
        ServerIdClash,
        Recovery(
            Then.GO_ON,
            CLASH_PAUSE_SECONDS,
            Source.CLASH,
            "another replica has our server_id",
            "error",
        ),
    ),
    # Another server, or other settings: whether the position is its own is asked when it is connected to.
    (SourceChanged, Recovery(Then.GO_ON, 0.0, None, "the database is connected to anew", "info")),
    (SchemaError, Recovery(Then.GO_ON, None, Source.SCHEMA, "the database isn't as it should be")),
    (SourceRefused, Recovery(Then.GO_ON, None, Source.AWAY, "the database refuses us")),
    (SourceFull, Recovery(Then.GO_ON, None, Source.AWAY, "the database has no room for us")),
    (SourceError, Recovery(Then.GO_ON, None, Source.AWAY, "the database is away", sweep=True)),
    # The writer says so, and the monitor is told by it.
    (StorageError, Recovery(Then.GO_ON, None)),
)


def recovery(error: IndexerError) -> Recovery:
    """What `run` does after that error; the first row of the table whose type it has."""
    return next((row for kind, row in _TABLE if isinstance(error, kind)), Recovery(Then.END))

"""What the binary log tells, event by event (given by binlog.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from cdc_indexer.model.position import Position
from cdc_indexer.model.study import OutboxRow

if TYPE_CHECKING:
    from cdc_indexer.source.catalogue import Column

__all__ = ["Event", "Heartbeat", "Rows", "TableChanged", "TableRead", "TransactionEnd"]


class Rows(NamedTuple):
    """Rows inserted into the outbox: those of one event of the log, in its order; ``epoch`` is the source's."""

    rows: list[OutboxRow]
    epoch: int


class TransactionEnd(NamedTuple):
    """Reading may begin again at ``position``: everything before it was given.

    ``at`` is the server's time of the commit, in seconds since 1970. ``columns`` are the outbox's at this
    position, to be kept with it and given to the next reader; None when they aren't known for certain.
    Transactions that don't concern the outbox may share one. ``epoch`` is the source's.
    """

    position: Position
    at: int
    columns: tuple[Column, ...] | None
    epoch: int


class Heartbeat(NamedTuple):
    """The server is alive and has nothing to send: the stream is caught up. ``at`` is our time."""

    at: int


class TableRead(NamedTuple):
    """Rows may have been inserted that the log doesn't show: read the table now.

    The server may send a transaction a moment before its rows can be seen in the table.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class TableChanged:
    """The outbox was altered, replaced, truncated or dropped; the reader has read its columns again."""


Event: TypeAlias = Rows | TransactionEnd | Heartbeat | TableRead | TableChanged

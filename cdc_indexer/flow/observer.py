"""Who is told what happens, and never asks: the seam between the service and what people and machines see of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from cdc_indexer.flow.order import Delivery
    from cdc_indexer.flow.verdict import Gate
    from cdc_indexer.model.errors import StorageError
    from cdc_indexer.model.outcome import Outcome, Refusal
    from cdc_indexer.model.settings import Settings

__all__ = ["Condition", "Observer", "Sample", "Source"]


class Source(str, Enum):
    """How it stands with the database."""

    UP = "up"
    #: Can't be reached, refuses us, ended the connection.
    AWAY = "away"
    #: The table or the view isn't as extras/*.sql makes them.
    SCHEMA = "schema"
    #: The position is gone; a fresh one is being taken.
    POSITION = "position"
    #: Another replica uses our server_id.
    CLASH = "clash"
    #: Without a binary log: the table is read every few seconds.
    DEGRADED = "degraded"


class Condition(str, Enum):
    """What may be the matter beside database, index and disk; docs/operations.md has a row for each."""

    #: A transaction of the archive's has been open for so long that it seems to be forgotten.
    OPEN_TRANSACTION = "open_transaction"
    #: Somebody has asked for a pause.
    PAUSED = "paused"
    #: A pass would change or delete so much that somebody has to say that it is right.
    CHANGES_HELD = "changes_held"
    #: Another process sends studies of this centre.
    OTHER_WRITER = "other_writer"
    #: The index lost something of what it had accepted.
    INDEX_LOST = "index_lost"
    #: An `initial` was begun and isn't done, and no comparison looks at what the archive held before.
    INITIAL_UNFINISHED = "initial_unfinished"
    #: The archive has studies that the triggers didn't record.
    NOT_RECORDED = "not_recorded"
    #: The archive has stored no new study for longer than monitor.quiet_hours.
    QUIET = "quiet"
    #: View and triggers were made for another version of the archive.
    OTHER_VERSION = "other_version"


class Sample(NamedTuple):
    """How far `run` is, as it tells every second.

    ``position`` and ``settled_until`` (naive UTC) are those of the checkpoint; ``checkpoint_at`` is when it was last
    written, in seconds since 1970. ``lag_bytes`` is None while that isn't known. ``queued`` are studies in the dispatcher,
    ``waiting`` those that wait for quiet or are being sent. ``parked_reasons``: the most frequent ones of what is parked,
    with their number. ``idle_seconds``: since when the loop hasn't moved. ``blocked``: it waits for the index, for quiet or
    for the disk, which is no fault of its own. ``rows_read`` and ``bytes_read`` count from the start.
    ``clock_difference_seconds``: the database's clock minus ours. ``at_index``: how many studies the index has accepted,
    over all starts.
    """

    position: str | None
    server: str | None
    settled_until: datetime
    lag_seconds: float
    lag_bytes: int | None
    queued: int
    waiting: int
    parked: int
    parked_reasons: tuple[tuple[str, int], ...]
    checkpoint_at: float | None
    rows_read: int
    bytes_read: int
    clock_difference_seconds: float
    idle_seconds: float
    blocked: bool
    at_index: int | None = None


class Observer:
    """Is told; every method does nothing here. They are called from any thread, must be quick and never raise."""

    def started(self, settings: Settings) -> None:
        """`run` holds its state directory and is about to begin."""

    def reconfigured(self, settings: Settings) -> None:
        """The files were read again."""

    def stopped(self, error: BaseException | None) -> None:
        """`run` has ended, with what failed."""

    def sampled(self, sample: Sample) -> None:
        """How far it is, every second."""

    def source(self, source: Source, reason: str) -> None:
        """How it stands with the database; ``reason`` is a sentence unless it is up."""

    def caught_up(self) -> None:
        """The end that the binary log had at the start is reached."""

    def delivered(self, delivery: Delivery, outcome: Outcome) -> None:
        """A delivery was accepted."""

    def parked(self, delivery: Delivery, outcome: Outcome) -> None:
        """A delivery was rejected and parked."""

    def answered(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        """One request to the central index took ``seconds``; an outcome for each study in it."""

    def gate(self, gate: Gate, reason: str, refusal: Refusal | None = None) -> None:
        """The central index takes what we send, is away, or refuses us."""

    def storage(self, error: StorageError | None) -> None:
        """The state directory can't be written; None: it can again."""

    def verification(self, reason: str | None) -> None:
        """The view can't be read, so that later versions wait; None: it can again."""

    def condition(self, condition: Condition, reason: str | None) -> None:
        """Something is the matter, in one sentence with the remedy; None: it is over."""

    def compared(self, last_pass: Mapping[str, Any]) -> None:
        """A comparison of archive and index has ended, now or before the start: what it came to, as JSON."""

    def audited(self, found: int) -> None:
        """The table was read; so many rows were found that the binary log hadn't brought."""

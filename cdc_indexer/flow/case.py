"""A study that somebody hinted at: what stands for it, whose turn it is, what the ledger says (records that decide nothing).

A *hint* makes a study looked at: an outbox row, a patient's change, a page of a backfill, a parked study to be tried again.
A *lease* is the study's turn. It has one owner at a time, who takes the hints that came so far along; further ones wait in
the case. Whoever holds a lease ends it with a result or gives it back, and then the hints are there again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdc_indexer.flow.backfill import Ticket
    from cdc_indexer.flow.patients import PatientChange
    from cdc_indexer.model.ledger import Entry
    from cdc_indexer.model.study import OutboxRow

__all__ = ["NO_HINTS", "Case", "Hints", "Insist"]

#: An outbox row: (id, recorded_at).
Row = tuple[int, datetime]


class Insist(IntEnum):
    """What is sent although nothing differs."""

    NO = 0
    #: What the index rejected, once more.
    RETRY = 1
    #: Whatever the ledger says.
    RESEND = 2


@dataclass(slots=True, eq=False)
class Hints:
    """Why a study is looked at, and what ends with the look.

    Attributes:
        rows: outbox rows that settle, in the order in which they came.
        deleted: the last row that says so, as (recorded_at, id); what came before it was of an earlier life of the study.
        gone: the archive was seen to have deleted it: by a row of its own, or in two readings of a sweep.
        newer: the index has said that it holds a newer version: what the view then lacks, it has to delete.
        changes: patients' changes of which this study is one.
        tickets: of backfills.
        seed: what a resending makes its Idempotency-Key from; with RETRY the key under which it was rejected.
        live: something of it was recorded, so it goes before what isn't.
        by_uid: it wasn't there under its primary key, so it is looked for by its UID.
        look: somebody asked for a look, and there is nothing that ends with it.
        doubtful: the index may have lost what the ledger says, and wasn't asked: it is sent, equal or not.
    """

    # Ten thousand of these may wait, most of them with one row: no empty lists.
    rows: tuple[Row, ...] | list[Row] = ()
    gone: bool = False
    deleted: tuple[datetime, int] | None = None
    changes: tuple[PatientChange, ...] = ()
    tickets: tuple[Ticket, ...] = ()
    insist: Insist = Insist.NO
    seed: str = ""
    live: bool = False
    by_uid: bool = False
    look: bool = False
    newer: bool = False
    doubtful: bool = False

    def __bool__(self) -> bool:
        return bool(self.rows or self.changes or self.tickets or self.gone or self.insist or self.look)

    def __len__(self) -> int:
        """What counts against the memory that hints may take."""
        return len(self.rows) + len(self.changes) + len(self.tickets)

    @property
    def asks_by_uid(self) -> bool:
        """Whether the study is looked for by its UID too, before it counts as gone."""
        return self.gone or self.by_uid

    @property
    def rows_since_deleted(self) -> list[tuple[datetime, int]]:
        """(recorded_at, id) of the rows that stand for the study as it is now, in the order in which they were recorded."""
        deleted = self.deleted
        by_time = sorted((recorded_at, row_id) for row_id, recorded_at in self.rows)
        return [row for row in by_time if deleted is None or row > deleted]

    def add_row(self, row: Row) -> None:
        """One more row."""
        if isinstance(self.rows, tuple):
            self.rows = list(self.rows)
        self.rows.append(row)

    def join(self, later: Hints) -> None:
        """Takes in what came later."""
        if later.rows:
            self.rows = [*self.rows, *later.rows]
        self.gone = self.gone or later.gone
        if later.deleted is not None and (self.deleted is None or later.deleted > self.deleted):
            self.deleted = later.deleted
        self.changes += later.changes
        self.tickets += later.tickets
        if later.insist > self.insist:
            self.insist, self.seed = later.insist, later.seed
        self.live = self.live or later.live
        self.look = self.look or later.look
        self.newer = self.newer or later.newer
        self.doubtful = self.doubtful or later.doubtful


#: In every case without any: ten thousand may wait to be verified alone. Nobody changes it; ``own_hints`` gives others.
NO_HINTS = Hints()


@dataclass(slots=True, eq=False)
class Case:
    """One study under way.

    Attributes:
        entry: what the ledger says, as of the last durable or pending result; counts only when ``known``.
        lease: who has its turn (a Reading or a Delivery), None while it waits.
        first: the row of a first version, which goes out as recorded if the ledger knows nothing of the study.
        verify_ids: rows that were sent as recorded and settled; the view is read once it shows them.
        stale: how often in a row the index had a newer version and didn't say which.
    """

    key: str
    study_pk: int
    study_iuid: str
    entry: Entry | None = None
    known: bool = False
    lease: object | None = None
    first: OutboxRow | None = None
    verify_ids: tuple[int, ...] = ()
    stale: int = 0
    hints: Hints = NO_HINTS
    #: Monotonic seconds; queued_at is where it stands in the queue and may be earlier than due_at.
    first_at: float = 0.0
    due_at: float = 0.0
    queued_at: float | None = None

    def own_hints(self) -> Hints:
        """Hints that may be changed."""
        if self.hints is NO_HINTS:
            self.hints = Hints()
        return self.hints

    @property
    def under_way(self) -> bool:
        """Whether something of it is left, with nobody holding its lease."""
        return self.waits or self.first is not None

    @property
    def waits(self) -> bool:
        """Whether there is something to look at."""
        return bool(self.hints) or (self.known and self.entry is not None and self.entry.unverified)

    def row_ids(self, hints: Hints) -> list[int]:
        """The outbox rows that a reading has to show before it counts."""
        return [*(row_id for row_id, _ in hints.rows), *self.verify_ids]

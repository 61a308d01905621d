"""Leases of studies whose rows in the view are read: the edge reads, and what it found decides (passive)."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime

from cdc_indexer.flow.case import Case, Hints
from cdc_indexer.model.ledger import Entry

__all__ = ["Found", "Reading"]

Values = Mapping[str, object]


@dataclass(slots=True, eq=False)
class Reading:
    """Studies that are read from the view together. It ends in ``Core.end_reading`` or ``Core.give_back``, once.

    Attributes:
        version: of all values that it finds; drawn before the reading begins.
        epoch: of the source; what was read in another one decides nothing.
        ledger_epoch: the same for what the ledger says.
        pks: by study_key, where the view is looked at; a row that comes later may tell another one.
        values: what was read already, by study_pk (a page of a backfill or of a patient's studies); None: nothing was.
    """

    version: int
    epoch: int
    ledger_epoch: int
    values: Mapping[int, Values] | None = None
    leases: list[tuple[Case, Hints]] = field(default_factory=list)
    pks: dict[str, int] = field(default_factory=dict)
    open: bool = True

    def add(self, case: Case, hints: Hints) -> None:
        """Leased to this reading, with the hints that came so far."""
        self.leases.append((case, hints))
        self.pks[case.key] = case.study_pk

    @property
    def study_pks(self) -> list[int]:
        """To be read from the view."""
        return list(self.pks.values())

    @property
    def study_iuids(self) -> list[str]:
        """To be looked for under another primary key, before they count as gone."""
        return [case.study_iuid for case, hints in self.leases if hints.asks_by_uid and case.study_iuid]

    @property
    def row_ids(self) -> list[int]:
        """Outbox rows that the reading has to show, or that have to be pruned."""
        return [row_id for case, hints in self.leases for row_id in case.row_ids(hints)]

    @property
    def keys(self) -> list[str]:
        """Studies of which the ledger is to be asked."""
        return [case.key for case, _ in self.leases if not case.known]


@dataclass(frozen=True, slots=True)
class Found:
    """What a reading found.

    Attributes:
        epoch: of the session that read.
        studies: the view's rows by study_pk; those that it doesn't hold are absent.
        by_uid: the view's rows of ``Reading.study_iuids``, by UID.
        unseen: rows whose transaction can't be seen yet.
        newest: with `send: stable`, when the newest row of a study was recorded, by study_pk, as far as that is recent.
        entries: what the ledger says of ``Reading.keys``; those that it doesn't know are absent.
    """

    epoch: int
    studies: Mapping[int, Values] = field(default_factory=dict)
    by_uid: Mapping[str, Values] = field(default_factory=dict)
    unseen: Set[int] = frozenset()
    newest: Mapping[int, datetime] = field(default_factory=dict)
    entries: Mapping[str, Entry] = field(default_factory=dict)

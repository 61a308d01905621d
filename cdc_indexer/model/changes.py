"""What one durable step writes: the core hands it out, the state writes it in one transaction (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from cdc_indexer.model.ledger import Entry

__all__ = ["Changes", "Closing", "Parking", "State"]


class State(str, Enum):
    """What is the matter with a parked study; the first two are open."""

    PARKED = "parked"
    RETRY = "retry"
    ACCEPTED = "accepted"
    SUPERSEDED = "superseded"
    DISCARDED = "discarded"


class Parking(NamedTuple):
    """A study that the index rejected. There is one open entry for a study; a later rejection takes its place.

    ``operation`` is 'post' or 'delete'. ``body`` is the document (None for a deletion, empty where the row couldn't become
    one). ``status`` is None where nothing was sent. ``body`` and ``answer`` hold patient data.
    """

    study_key: str
    study_pk: int
    study_iuid: str
    operation: str
    idempotency_key: str
    outbox_ids: tuple[int, ...]
    body: bytes | None
    status: int | None
    reason: str
    answer: str


class Closing(NamedTuple):
    """What became of the open entry of a study, if it has one."""

    study_key: str
    state: State


@dataclass(slots=True)
class Changes:
    """Everything that changed since the last step; empty is falsy.

    Attributes:
        meta: by name, a JSON-ready value: position, identity, columns, until, version_bound, ...
        settled: the settled ids of a span of time (``Settled.render_changed``), by its name; None: forget it.
        ledger: the new entry of a study, by study_key.
        verified: by study_key, entries that aren't ``unverified`` any more, and in nothing else other than they were.
        new_ledger: all entries of before are forgotten, before ``ledger`` is written (`initial --restart`).
        parking: by study_key, a Parking or a Closing, the last of each study.
        jobs: how far a backfill is, by the job's name; None: it is done.
    """

    meta: dict[str, Any] = field(default_factory=dict)
    settled: dict[str, str | None] = field(default_factory=dict)
    ledger: dict[str, Entry] = field(default_factory=dict)
    verified: dict[str, Entry] = field(default_factory=dict)
    new_ledger: bool = False
    parking: dict[str, Parking | Closing] = field(default_factory=dict)
    jobs: dict[str, Mapping[str, Any] | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        entries = self.ledger or self.verified or self.new_ledger
        return bool(self.meta or self.settled or entries or self.parking or self.jobs)

"""What is durable: the state without SQLite. A step is done or not done, never torn (the state's own tests see to that)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cdc_indexer.model.changes import Changes, Closing, Parking
from cdc_indexer.model.ledger import Entry

__all__ = ["Disk", "Parked"]


class Parked:
    """An open entry of the parked studies."""

    __slots__ = ("at", "parking", "retry")

    def __init__(self, parking: Parking, at: float) -> None:
        self.parking = parking
        self.at = at
        self.retry = False


class Disk:
    """One state directory."""

    def __init__(self) -> None:
        self.meta: dict[str, Any] = {}
        self.settled: dict[str, str] = {}
        self.ledger: dict[str, Entry] = {}
        self.parked: dict[str, Parked] = {}
        self.jobs: dict[str, Any] = {}
        self.full = False

    def begin(self) -> None:
        """A process opens it."""

    def lookup(self, keys: Iterable[str]) -> dict[str, Entry]:
        return {key: self.ledger[key] for key in keys if key in self.ledger}

    def unverified(self) -> list[Entry]:
        return [entry for entry in self.ledger.values() if entry.unverified]

    def apply(self, changes: Changes, at: float) -> None:
        """One transaction."""
        self.meta.update(changes.meta)
        for name, ids in changes.settled.items():
            if ids is None:
                self.settled.pop(name, None)
            else:
                self.settled[name] = ids
        if changes.new_ledger:
            self.ledger.clear()
        self.ledger.update(changes.ledger)
        self.ledger.update(changes.verified)
        for key, parking in changes.parking.items():
            if isinstance(parking, Closing):
                self.parked.pop(key, None)
            else:
                self.parked[key] = Parked(parking, at)
        for name, state in changes.jobs.items():
            if state is None:
                self.jobs.pop(name, None)
            else:
                self.jobs[name] = state

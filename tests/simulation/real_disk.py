"""The durable state as it is, state.sqlite, in the place of the played one; what it gives back is compared with that."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cdc_indexer.model.changes import Changes
from cdc_indexer.model.ledger import Entry
from cdc_indexer.state.parked_studies import ParkedStudies
from cdc_indexer.state.store import Store
from tests.simulation.disk import Disk
from tests.simulation.index import Broken

__all__ = ["RealDisk"]


class RealDisk(Disk):
    """In ``directory``; each process opens the file anew."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory
        self._store: Store | None = None

    def begin(self) -> None:
        self.close()
        self._store = Store(self._directory)
        loaded = self._store.load()
        self._compare("meta", loaded.meta, _plain(self.meta))
        self._compare("settled", loaded.settled, self.settled)
        self._compare("jobs", loaded.jobs, _plain(self.jobs))
        self._compare("ledger", self._store.lookup(list(self.ledger)), self.ledger)
        self._compare("the number of entries", loaded.ledger, len(self.ledger))
        self.meta, self.settled, self.jobs = dict(loaded.meta), dict(loaded.settled), dict(loaded.jobs)

    def lookup(self, keys: Iterable[str]) -> dict[str, Entry]:
        assert self._store is not None
        keys = list(keys)
        found = self._store.lookup(keys)
        self._compare("a look-up", found, super().lookup(keys))
        return found

    def unverified(self) -> list[Entry]:
        assert self._store is not None
        entries = self._store.unverified(0, 10_000)
        expected = {entry.study_iuid: entry for entry in super().unverified()}
        self._compare("unverified", {entry.study_iuid: entry for entry in entries}, expected)
        return entries

    def apply(self, changes: Changes, at: float) -> None:
        assert self._store is not None
        self._store.apply(changes)
        super().apply(changes, at)
        if changes.parking:
            with_file = ParkedStudies(self._directory)
            try:
                held = {entry.study_key: entry.idempotency_key for entry in with_file.entries()}
            finally:
                with_file.close()
            expected = {key: parked.parking.idempotency_key for key, parked in self.parked.items()}
            self._compare("parked", held, expected)

    def close(self) -> None:
        """No process has it open any more."""
        if self._store is not None:
            self._store.close()
            self._store = None

    @staticmethod
    def _compare(what: str, found: object, expected: object) -> None:
        if found != expected:
            raise Broken(f"the state gives back another {what}: {found!r}, not {expected!r}")


def _plain(values: Any) -> Any:
    """As JSON gives it back; a value that is None is forgotten."""
    return {name: json.loads(json.dumps(value)) for name, value in values.items()}

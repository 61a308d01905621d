"""When a study was seen to be absent first, over a restart (the rest of what is gone is in test_sweep_rules.py)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from cdc_indexer.jobs import gone as module
from cdc_indexer.jobs.gone import Gone
from cdc_indexer.model.ledger import Entry
from cdc_indexer.model.position import Identity

ENTRIES = {f"1.{number}": Entry(f"1.{number}", number, digest=bytes(16)) for number in (1, 2, 3)}


class FakeArchive:
    """Stands in for engine and outbox; ``holds``: the UIDs that the view has."""

    def __init__(self) -> None:
        self.holds: set[str] = set()
        self.core = SimpleNamespace(parts=SimpleNamespace(policy=SimpleNamespace(deletes=True, updates=True)))
        self.source = SimpleNamespace(identity=Identity("a", "pacsdb"), epoch=1)
        self.store = SimpleNamespace(lookup=self._lookup)

    @contextmanager
    def inside(self) -> Iterator[Any]:
        yield self.core

    def _lookup(self, keys: Iterable[str]) -> dict[str, Entry]:
        return {key: ENTRIES[key] for key in keys}

    def view_of(self, uids: Iterable[str]) -> list[Mapping[str, Any]]:
        return [{"study_iuid": uid} for uid in uids if uid in self.holds]


def begin(archive: Any, seconds: float = 600.0) -> Gone:
    return Gone(archive, archive, lambda _: None, seconds)


def found(archive: FakeArchive, process: str = "") -> dict[str, Any]:
    """What an interrupted pass of another process has found."""
    one = begin(archive)
    for entry in ENTRIES.values():
        one.add(entry)
    state = one.state()
    assert state is not None
    return state | {"process": process} if process else state


def left(archive: FakeArchive, state: dict[str, Any]) -> float:
    one = begin(archive)
    one.again({**state, "since": {key: time.monotonic() - 400 for key in state["since"]}})
    return one.left_seconds


def test_what_was_seen_by_an_earlier_process_counts() -> None:
    archive = FakeArchive()
    archive.holds = {"1.2"}
    assert 190 < left(archive, found(archive, "another")) < 201
    one = begin(archive)
    one.again(found(archive, "another"))
    assert len(one) == 2  # what is there again isn't gone


def test_it_does_not_count_after_another_epoch_server_or_start_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    archive = FakeArchive()
    state = found(archive)
    assert left(archive, state) < 201
    archive.source.epoch = 2
    assert left(archive, state) > 590
    other = found(archive, "another")
    archive.source.identity = Identity("b", "pacsdb")
    assert left(archive, other) > 590
    other = found(archive, "another")
    assert left(archive, other) < 201
    for boot in ("another", ""):
        monkeypatch.setattr(module, "_boot", lambda boot=boot: boot)
        assert left(archive, other) > 590

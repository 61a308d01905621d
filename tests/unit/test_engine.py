"""What the engine says of itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cdc_indexer.flow.observer import Observer
from cdc_indexer.flow.verdict import Gate
from cdc_indexer.jobs.engine import Engine
from cdc_indexer.jobs.reporter import Reporter
from cdc_indexer.jobs.storage import Storage
from cdc_indexer.model.errors import StorageError


@pytest.mark.parametrize(
    ("full", "storage_failing", "paused", "gate", "waits"),
    [
        (False, False, False, Gate.OPEN, False),
        (True, False, False, Gate.OPEN, True),
        (False, True, False, Gate.OPEN, True),
        (False, False, True, Gate.OPEN, True),
        (False, False, False, Gate.AWAY, True),
        (False, False, False, Gate.HELD, True),
    ],
)
def test_who_waits_for_others_is_not_stuck(
    full: bool, storage_failing: bool, paused: bool, gate: Gate, waits: bool
) -> None:
    """systemd's watchdog and /healthz ask: what starting again would mend is only what waits for nobody."""
    order = SimpleNamespace(gate=gate, paused=paused)
    engine: Any = SimpleNamespace(
        core=SimpleNamespace(room=lambda: not full, parts=SimpleNamespace(order=order)),
        storage=SimpleNamespace(failing=storage_failing),
    )
    assert Engine.waits_for_others.fget(engine) is waits  # type: ignore[attr-defined]


def test_a_state_that_could_not_be_read_for_a_moment_stops_nobody_for_ever() -> None:
    """The writer has nothing left to write, so it won't say that all is well; and nothing is sent until somebody does."""
    error = StorageError("no file descriptor is left")
    answers: list[Exception | None] = [error, None]

    def lookup(keys: list[str]) -> None:
        if (answer := answers.pop(0)) is not None:
            raise answer

    store: Any = SimpleNamespace(lookup=lookup)
    writer = SimpleNamespace(failing=False)
    storage = Storage(Observer(), store, lambda: writer.failing)
    storage.look()
    storage.trouble(error)
    storage.look()
    assert storage.failing, "somebody met it since"
    storage.look()
    assert storage.failing, "it still can't be read"
    writer.failing = True
    storage.look()
    assert storage.failing, "the writer says so itself"
    writer.failing = False
    storage.look()
    assert not storage.failing
    assert not answers


def test_a_report_has_all_its_members_from_the_first_on() -> None:
    names = ("state", "problems", "seconds_behind", "waiting", "parked", "last_delivery_at")
    summary: dict[str, Any] = {**dict.fromkeys(names), "problems": []}
    reporter: Any = SimpleNamespace(_engine=SimpleNamespace(settings=SimpleNamespace(center="000"), meta={}))
    content = Reporter._content(reporter, summary, 7)
    assert list(content) == [
        "at", "center", "program", "state", "problems", "behind_seconds", "waiting", "parked", "last_delivery", "last_pass",
    ]  # fmt: skip
    assert content["last_pass"] is None

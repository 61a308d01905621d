"""When a pass of `run` is due, why, and when what was wanted is done."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cdc_indexer.flow.core import Core
from cdc_indexer.flow.gate import Gatekeeper
from cdc_indexer.flow.observer import Condition, Observer
from cdc_indexer.flow.order import Order
from cdc_indexer.flow.policy import Policy
from cdc_indexer.flow.progress import Progress
from cdc_indexer.jobs.passes import Pass, Wanted
from cdc_indexer.jobs.sweeper import Sweeper, next_pass
from cdc_indexer.model.moment import Now
from cdc_indexer.model.settled import Settled
from cdc_indexer.model.version import VersionClock

WHOLE = Pass(compared=10, index=True)


class Told(Observer):
    def __init__(self) -> None:
        self.conditions: dict[Condition, str | None] = {}

    def condition(self, condition: Condition, reason: str | None) -> None:
        self.conditions[condition] = reason


class FakeEngine:
    """What a Sweeper knows of an engine; ``meta`` is the durable state."""

    def __init__(self, state_dir: Path, meta: dict[str, Any], *features: str) -> None:
        self.meta = meta
        self.jobs: dict[str, Any] = {}
        self.store = SimpleNamespace(rebuilt=False)
        self.observer = Told()
        self.sending = SimpleNamespace(known=SimpleNamespace(features=features))
        self.settings = SimpleNamespace(
            state_dir=state_dir,
            reconcile=SimpleNamespace(every_hours=0),
            center="000",
            webservice_url="https://index/",
        )
        progress = Progress(Settled(), None, None)
        order = Order(Gatekeeper(60.0, 4, random.Random(1)), 4)
        self.core = Core(Policy("000"), progress, VersionClock(), order)

    @contextmanager
    def inside(self) -> Iterator[Any]:
        yield self.core

    def now(self) -> Now:
        return Now(0.0, 0)

    def remember(self, name: str, value: object) -> None:
        self.meta[name] = value


@pytest.fixture
def meta() -> dict[str, Any]:
    return {}


def begin(tmp_path: Path, meta: dict[str, Any], *features: str) -> tuple[Sweeper, Any]:
    engine: Any = FakeEngine(tmp_path, meta, *features)
    sweeper = Sweeper(engine, SimpleNamespace())  # type: ignore[arg-type]
    sweeper.ready()
    return sweeper, engine


def test_why_a_pass_is_wanted_survives_a_restart(tmp_path: Path, meta: dict[str, Any]) -> None:
    sweeper, _ = begin(tmp_path, meta)
    assert sweeper._due() is None
    sweeper.want("a position was taken anew", suspicious=True)
    again, _ = begin(tmp_path, meta)
    due = again._due()
    assert due is not None
    assert due.reason == "a position was taken anew"
    again._ended(WHOLE, due.wanted)
    assert again._due() is None
    assert begin(tmp_path, meta)[0]._due() is None


def test_what_is_wanted_during_a_pass_is_not_done_with_it(tmp_path: Path, meta: dict[str, Any]) -> None:
    sweeper, _ = begin(tmp_path, meta)
    sweeper.want("the database's clock went back")
    due = sweeper._due()
    assert due is not None
    sweeper.want("a position was taken anew")
    sweeper._ended(WHOLE, due.wanted)
    later = sweeper._due()
    assert later is not None
    assert later.wanted is not None
    assert due.wanted is not None
    assert later.wanted.id != due.wanted.id
    sweeper._ended(WHOLE, later.wanted)
    assert sweeper._due() is None


def test_a_doubt_ends_with_a_pass_that_has_compared_the_index(tmp_path: Path, meta: dict[str, Any]) -> None:
    sweeper, _ = begin(tmp_path, meta, "reports", "digests")
    sweeper.doubt(Condition.INDEX_LOST)
    # Over a restart, too.
    sweeper, engine = begin(tmp_path, meta, "reports", "digests")
    assert not engine.core.parts.believed
    assert "compared with" in engine.observer.conditions[Condition.INDEX_LOST]
    due = sweeper._due()
    assert due is not None
    sweeper._ended(Pass(compared=10), due.wanted)
    assert not engine.core.parts.believed
    assert sweeper._due() is None  # but not again at once
    sweeper.doubt(Condition.INDEX_LOST)
    due = sweeper._due()
    assert due is not None
    sweeper._ended(Pass(compared=10, index=True, held="60 studies would be deleted"), due.wanted)
    assert engine.core.parts.believed
    assert engine.observer.conditions[Condition.INDEX_LOST] is None
    assert engine.observer.conditions[Condition.CHANGES_HELD] == "60 studies would be deleted"
    assert Wanted.of(meta[Wanted.NAME]) is None


def test_an_index_that_can_not_be_compared_stays_in_doubt(tmp_path: Path, meta: dict[str, Any]) -> None:
    sweeper, engine = begin(tmp_path, meta, "reports")
    sweeper.doubt(Condition.INDEX_LOST)
    assert sweeper._due() is None
    assert "initial --restart" in engine.observer.conditions[Condition.INDEX_LOST]
    sweeper.want("a position was taken anew")
    due = sweeper._due()
    assert due is not None
    sweeper._ended(Pass(compared=10), due.wanted)
    assert sweeper._due() is None
    assert not engine.core.parts.believed


def test_a_new_ledger_is_believed(tmp_path: Path, meta: dict[str, Any]) -> None:
    """`initial --restart` has begun to send everything, alone or beside this `run`."""
    sweeper, engine = begin(tmp_path, meta, "reports")
    sweeper.doubt(Condition.INDEX_LOST)
    assert not engine.core.parts.believed
    engine.remember(Wanted.NAME, None)
    assert sweeper._due() is None
    assert engine.core.parts.believed
    assert engine.observer.conditions[Condition.INDEX_LOST] is None


def test_another_writer_is_not_compared_all_the_time(tmp_path: Path, meta: dict[str, Any]) -> None:
    sweeper, engine = begin(tmp_path, meta, "reports", "digests")
    sweeper.doubt(Condition.OTHER_WRITER)
    due = sweeper._due()
    assert due is not None
    sweeper._ended(WHOLE, due.wanted)
    assert engine.observer.conditions[Condition.OTHER_WRITER] is None
    sweeper.doubt(Condition.OTHER_WRITER)
    assert engine.observer.conditions[Condition.OTHER_WRITER]
    assert sweeper._due() is None
    # An index that lost something is another matter.
    sweeper.doubt(Condition.INDEX_LOST)
    assert sweeper._due() is not None


def test_the_night_s_pass_comes_once_a_night_and_each_centre_has_its_moment() -> None:
    noon = datetime(2026, 11, 28, 12)
    slots = {next_pass(noon, 24, f"{number:03}", noon) for number in range(50)}
    assert len(slots) > 45
    for slot in slots:
        assert slot > noon
        assert slot.hour >= 20 or slot.hour < 6
    (first,) = {next_pass(noon, 24, "007", noon)}
    after = next_pass(first, 24, "007", first)
    assert (after - first).total_seconds() == 86_400

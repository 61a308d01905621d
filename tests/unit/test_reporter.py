"""What a report's answer says: nothing, that the index lost something, or that another process writes for this centre."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from cdc_indexer.flow.observer import Condition
from cdc_indexer.jobs import reporter as module
from cdc_indexer.jobs.reporter import Reporter
from cdc_indexer.model.version import VersionClock

SUMMARY = {
    "state": "ok",
    "problems": [],
    "seconds_behind": 0.0,
    "waiting": 0,
    "parked": 0,
    "last_delivery_at": None,
}


class World:
    """Engine, sweeper and index in one; ``highest`` is what the index answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = VersionClock()
        self.settlement = SimpleNamespace(
            highest=0, unproven=SimpleNamespace(take=dict, give_back=lambda _: None)
        )
        self.core = SimpleNamespace(
            parts=SimpleNamespace(clock=self.clock, settlement=self.settlement, believed=True)
        )
        self.meta: dict[str, Any] = {}
        self.settings = SimpleNamespace(center="000")
        self.sending = SimpleNamespace(known=SimpleNamespace(features=("versions", "reports")))
        self.caught_up = True
        self.now = 1_000
        self.highest: int | None = None
        self.meanwhile: Callable[[], None] = lambda: None
        self.doubts: list[Condition] = []
        self._previous: int | None = None
        monkeypatch.setattr(module, "draw_after", self._draw_after)
        monkeypatch.setattr(module, "IndexClient", lambda _: self)
        engine: Any = self
        self._reporter = Reporter(engine, engine, dict)

    @contextmanager
    def inside(self) -> Iterator[Any]:
        yield self.core

    def remember(self, name: str, value: object) -> None:
        self.meta[name] = value

    def doubt(self, condition: Condition) -> None:
        self.doubts.append(condition)

    def _draw_after(self, _: object) -> tuple[int, int]:
        before, self.clock.last = self.clock.last, max(self.now, self.clock.last + 1)
        return before, self.clock.last

    def report(self, content: dict[str, Any]) -> tuple[int | None, int | None]:
        """The index's answer."""
        self.meanwhile()
        previous, self._previous = self._previous, content["at"]
        return previous, self.highest

    def close(self) -> None:
        """Of the client."""

    def send_report(self) -> list[Condition]:
        """What was doubted because of it."""
        self.doubts = []
        self._reporter._report(SUMMARY)
        self.now += 1_000
        return self.doubts


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    one = World(monkeypatch)
    assert one.send_report() == []
    return one


def test_a_number_that_nobody_here_gave_out_is_anothers(world: World) -> None:
    world.highest = world.now - 500
    assert world.send_report() == [Condition.OTHER_WRITER]
    assert world.send_report() == []  # nothing came since
    world.highest = world.now + 1_000_000
    assert world.send_report() == [Condition.OTHER_WRITER]
    assert world.clock.last >= world.highest


def test_what_was_given_out_here_is_no_reason(world: World) -> None:
    """Drawn before the report, taken from a row while it was under way, or accepted meanwhile."""
    world.clock.last = world.highest = world.now - 500
    assert world.send_report() == []
    world.highest = recorded = world.now - 400
    world.meanwhile = lambda: world.clock.took(recorded)
    assert world.send_report() == []
    world.highest = accepted = world.now - 300
    world.meanwhile = lambda: setattr(world.settlement, "highest", accepted)
    assert world.send_report() == []


def test_what_was_sent_by_an_earlier_process_is_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the POST and its settlement, or another state directory: nobody here knows the number."""
    world = World(monkeypatch)
    world.caught_up = False
    for _ in range(3):
        world.highest = world.now - 500
        assert world.send_report() == []
    world.caught_up = True
    world.highest = world.now - 500
    assert world.send_report() == []
    world.highest = world.now - 500
    assert world.send_report() == [Condition.OTHER_WRITER]


def test_an_index_that_went_back_is_another_matter(world: World) -> None:
    world.settlement.highest = world.highest = world.clock.last
    assert world.send_report() == []
    world.highest -= 1
    assert world.send_report() == [Condition.INDEX_LOST]
    assert world.send_report() == []

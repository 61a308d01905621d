"""Plays a world: from a seed, or step by step from a course that was written down; then everything comes to rest."""

from __future__ import annotations

import random
from bisect import bisect_right
from dataclasses import dataclass, fields
from typing import Any

from tests.simulation import happenings, happenings_around, invariants  # noqa: F401 - they register
from tests.simulation.disk import Disk
from tests.simulation.drawing import drawn
from tests.simulation.happening import HAPPENINGS
from tests.simulation.index import Broken
from tests.simulation.world import Config, Step, World

__all__ = ["Course", "Failure", "play", "play_seed"]

_REST_STEPS = 6000


@dataclass(frozen=True)
class Course:
    """A world and what happened in it."""

    config: Config
    steps: tuple[Step, ...]

    def render(self) -> dict[str, Any]:
        """JSON-ready; only what isn't usual of the config."""
        usual = Config()
        changed = {
            one.name: getattr(self.config, one.name)
            for one in fields(Config)
            if getattr(self.config, one.name) != getattr(usual, one.name)
        }
        return {"config": changed, "steps": [[name, *draws] for name, draws in self.steps]}

    @classmethod
    def parse(cls, document: dict[str, Any]) -> Course:
        config: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in document["config"].items()
        }
        return cls(Config(**config), tuple((name, tuple(draws)) for name, *draws in document["steps"]))


@dataclass(frozen=True)
class Failure:
    """What was broken, and by which course."""

    what: str
    course: Course
    seed: int | None = None

    @property
    def kind(self) -> str:
        """What two failures have in common that are probably one."""
        return "".join(" " if char.isdigit() else char for char in self.what.split(":")[0])[:60]


def play_seed(
    seed: int, trace: list[str] | None = None, *, keep: bool = False, disk: Disk | None = None
) -> Failure | None:
    """A world from a seed. ``keep``: gives its course even when nothing is broken."""
    rng = random.Random(seed)
    world_of = drawn(seed, rng)
    config, names, weights = world_of.config, world_of.names, world_of.weights
    total = weights[-1]

    def choose() -> str:
        return names[bisect_right(weights, rng.random() * total)]

    world = World(config, trace, disk)
    steps: list[Step] = []
    draws: list[int] = []

    def draw(n: int) -> int:
        value = int(rng.random() * n)
        draws.append(value)
        return value

    world.next_draws = draw
    what = ""
    try:
        for _ in range(world_of.count):
            # Drawn until one can happen: cheaper than to ask all of them.
            chosen = choose()
            while not _can(world, chosen):
                chosen = choose()
            draws.clear()
            try:
                _step(world, chosen)
            finally:
                steps.append((chosen, tuple(draws)))
        world.next_draws = lambda n: 0
        come_to_rest(world)
    except Broken as broken:
        what = str(broken)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
    return Failure(what, Course(config, tuple(steps)), seed) if what or keep else None


def play(course: Course, trace: list[str] | None = None) -> Failure | None:
    """A course again, to the letter; what can't happen any more, since something before it was taken out, is passed over."""
    world = World(course.config, trace)
    what = ""
    try:
        for name, draws in course.steps:
            if not _can(world, name):
                continue
            given = iter(draws)
            world.next_draws = lambda n, given=given: next(given, 0) % n  # type: ignore[misc]
            if trace is not None:
                trace.append(f"{name} {' '.join(map(str, draws))}".rstrip())
            _step(world, name)
        world.next_draws = lambda n: 0
        if trace is not None:
            trace.append("--- and then everything goes well")
        come_to_rest(world)
    except Broken as broken:
        what = str(broken)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
    return Failure(what, course) if what else None


def _can(world: World, name: str) -> bool:
    """Whether that can happen now."""
    if name in HAPPENINGS:
        return HAPPENINGS[name][1](world)
    process = world.process
    if process is None:
        return False
    actor = process.actors.get(name)
    return actor is not None and actor.ready()


def _step(world: World, name: str) -> None:
    # Two things never happen in the same microsecond.
    world.pass_time(0.0001)
    if name in HAPPENINGS:
        HAPPENINGS[name][2](world)
    else:
        process = world.process
        assert process is not None
        process.step(name)
    _look(world)


def _look(world: World) -> None:
    """After each step."""
    process = world.process
    if process is not None:
        invariants.check_bounds(world, process)
        if process.mode != "run" and process.source.epoch > process.began_in:
            process.finished = (
                True  # a command ends with an error when the database is another one than before
            )
        if process.finished and not process.requests and not process.core.parts.results.pending:
            process.stop()
        if process.drained:
            world.end_process()


# --- the end ---------------------------------------------------------------------------------------------


def come_to_rest(world: World) -> None:
    """From here on everything goes well: then nothing may be lost, and nothing may wait for ever."""
    for transaction in list(world.primary.transactions):
        if not transaction.logged:
            world.primary.log_transaction(transaction)
        world.primary.show(transaction)
    if world.replica is not None:
        world.apply_all()
    world.index.mood = "ok"
    # An index that fails on all that it gets is away for ever, be it one study; one that rejects all of them as well.
    world.index.fails.clear()
    if len(world.index.rejects) > 1:
        world.index.rejects.clear()
    world.disk.full = world.database_away = False
    if world.process is not None:
        world.process.core.parts.order.paused = False
    world.archive.triggers_on = True
    if not world.server.log_on:
        HAPPENINGS["log on"][2](world)
    while world.zombies:
        world.index.take(world.zombies.pop(0))
    # Some audits long; and one that begins when nothing is under way any more.
    _until_quiet(world, pauses=10)
    world.pass_time(61.0)
    _until_quiet(world)
    needs_initial = not world.scope_complete
    process = world.process
    assert process is not None
    if needs_initial:
        process.initial_wanted = False
        _until_quiet(world)
    hidden = world.clock_jumped and bool(
        {"kills", "stops", "away", "log", "servers"}.intersection(world.config.features)
    )
    unnoticed = world.went_back and world.proof_lost
    if world.sweep_needed or hidden or unnoticed or (world.shown_late and world.log_lost):
        for _ in range(2):
            process.sweep_wanted += 1
            _until_quiet(world)
            world.pass_time(660.0)
        _until_quiet(world)
    invariants.check_same(world)
    if not world.config.thorough:
        return
    # It ends, and begins again: nothing is sent.
    arrived = world.index.arrived
    process.stop()
    _until_quiet(world)
    if world.index.arrived != arrived:
        raise Broken("a stop and a start send something again")
    if world.scope_complete:
        process = world.process
        assert process is not None
        process.sweep_wanted += 1
        _until_quiet(world)
        if world.index.arrived != arrived:
            raise Broken("a sweep finds something where nothing differs")


def _until_quiet(world: World, *, pauses: int = 3) -> None:
    """Steps whatever can go on; when nothing can, time passes: ``pauses`` times at least."""
    least, pauses = pauses, 0
    for _ in range(_REST_STEPS):
        if world.process is None:
            world.start("run")
        process = world.process
        assert process is not None
        moved = False
        for name, actor in list(process.actors.items()):
            waits_for = actor.waits_for
            # Most of the time goes by here.
            if (waits_for is None or waits_for()) and world.process is process and name in process.actors:
                _step(world, name)
                moved = True
        while world.process is process and any(request.outcomes is None for request in process.requests):
            _step(world, "index")
            moved = True
        if moved:
            continue
        said = (
            invariants.restless(world, process)
            if process.mode == "run" and not process.stopping
            else "it isn't `run`"
        )
        if not said and process.sweep_wanted == 0 and process.initial_wanted is None and pauses >= least:
            return
        pauses += 1
        # Each time a moment, and then longer and longer.
        world.pass_time(
            0.06
            if pauses % 2
            else (0.5, 2.0, 6.0, 61.0, 61.0, 400.0, 4000.0, 90_000.0)[min(pauses // 2 - 1, 7)]
        )
        if pauses > 100:
            break
    process = world.process
    said = invariants.restless(world, process) if process is not None else "no process"
    raise Broken(f"it doesn't come to rest: {said or 'it goes on and on'}")

"""One process of the program: the real core, driven by actors that stop wherever threads could change places.

An actor is a generator. It yields wherever another thread could come in between, and may yield a question: then it goes on
once that is answered with yes. What jobs/ does with threads, this does with actors, edge for edge.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

from cdc_indexer.flow.case import Case, Hints
from cdc_indexer.flow.cases import Cases
from cdc_indexer.flow.core import Core
from cdc_indexer.flow.gate import Gatekeeper
from cdc_indexer.flow.order import Order
from cdc_indexer.flow.patients import ChangedPatients
from cdc_indexer.flow.progress import Progress
from cdc_indexer.flow.verdict import Change
from cdc_indexer.model.ledger import Entry
from cdc_indexer.model.moment import EPOCH, Now
from cdc_indexer.model.position import Identity, Position
from cdc_indexer.model.settled import Settled
from cdc_indexer.model.version import VersionClock
from tests.simulation.index import Request

if TYPE_CHECKING:
    from tests.simulation.archive import Server
    from tests.simulation.world import World

__all__ = ["Actor", "Away", "Process", "Steps"]

Steps = Generator[Callable[[], bool] | None, None, None]


class Away(Exception):
    """The database can't be read, or the session belongs to an epoch that is over."""


class Actor:
    """A generator, and what it waits for."""

    __slots__ = ("name", "steps", "waits_for")

    def __init__(self, name: str, steps: Steps) -> None:
        self.name = name
        self.steps = steps
        self.waits_for: Callable[[], bool] | None = None

    def ready(self) -> bool:
        return self.waits_for is None or self.waits_for()


class Source:
    """As source/: one owner of the epoch. Whoever reads borrows a session of an epoch, and finds out at its next use."""

    def __init__(self, world: World, known: Identity | None) -> None:
        self._world = world
        self._server: Server | None = None
        #: The server that answered last, or is known from before the start.
        self._identity = known
        self.epoch = 1

    def begin(self) -> None:
        """Which server answers at the start; another one than before begins the second epoch."""
        with suppress(Away):
            self.connect()

    def reload(self) -> None:
        """Other settings: a new epoch."""
        self._identity = self._server = None
        self.epoch += 1

    def connect(self) -> Server:
        """A session on the server of now."""
        world = self._world
        if world.database_away:
            raise Away
        if self._server is not world.server:
            self._server = world.server
            if self._identity is not None and self._identity != world.server.identity:
                self.epoch += 1
            self._identity = world.server.identity
        return self._server

    def at(self, epoch: int) -> Server:
        """A session of that epoch."""
        server = self.connect()
        if epoch != self.epoch:
            raise Away
        return server


class _Clock(VersionClock):
    """The real one; the world looks on."""

    def __init__(self, bound: int, world: World) -> None:
        super().__init__(bound)
        self._world = world
        self._given_out = 0

    def saw(self, version: int) -> None:
        super().saw(version)
        self._world.version_seen = max(self._world.version_seen, version)

    def draw(self, now: int) -> int | None:
        version = super().draw(now)
        if version is not None:
            self._world.version_drawn(version, self._given_out)
            self._given_out = version
        return version


class Process:
    """``mode``: run, once (`run --until-caught-up`) or initial."""

    def __init__(self, world: World, mode: str) -> None:
        self.world = world
        self.mode = mode
        disk, config = world.disk, world.config
        meta = disk.meta
        identity, position = meta.get("identity"), meta.get("position")
        progress = Progress(
            Settled.load(datetime.fromisoformat(meta.get("until", EPOCH.isoformat())), disk.settled),
            Identity(**identity) if identity else None,
            Position(**position) if position else None,
        )
        clock = _Clock(meta.get("version_bound", 0), world)
        keeper = Gatekeeper(config.give_up_seconds, config.concurrency, world.jitter)
        order = Order(keeper, config.concurrency, config.batch_size)
        cases = Cases(world.policy, max_studies=config.max_studies, max_hints=config.max_hints)
        patients = ChangedPatients(max_waiting=config.max_patients)
        self.core = Core(world.policy, progress, clock, order, cases, patients)
        #: The entries that were put into the ledger, durable or not.
        self.put: dict[str, Entry | None] = {}
        self._watch_ledger()
        self.source = Source(world, progress.identity)
        self.source.begin()
        self.began_in = self.source.epoch
        #: How far the database's clock is ahead, as it was when it was last asked.
        self.clock_ahead = 0
        self.requests: list[Request] = []
        #: Sends that are final, with the generation that makes them durable.
        self.unsure: list[tuple[int, Request]] = []
        self.stopping = False
        self.finished = False
        self.first_audit = True
        self.position_lost = False
        self.fresh_position = True
        self.auditing = False
        self.quick_audits = 0
        self.full_at = 0.0
        self.audit_running = False
        self.clock_seen: datetime | None = None
        self.clock_seen_at = 0.0
        #: How many rows were new.
        self.found = 0
        self.unpark_since: float | None = None
        #: When the gate was seen closed last; how often the index had recovered when it was last seen not to work.
        self.closed_at = -1.0
        self.recovered_by_then = 0
        #: When the tick looks up what nobody else has.
        self.look_up_at = 0.0
        #: Wanted of the feeder: whether from the beginning; None: nothing.
        self.initial_wanted: bool | None = mode == "initial" or None
        self.sweep_wanted = 0
        self.swept = 0
        #: What is durable by name, and what is to be.
        self.meta = dict(meta)
        self.report_at = 0.0
        #: Rows that had a newer one of their study when it began.
        self.superseded = world.server.superseded() if not world.database_away else frozenset()
        #: Why the ledger isn't believed: grows with each doubt; None: it is.
        self.doubted: int | None = self.meta.get("pass_wanted")
        if self.doubted is not None:
            self.core.doubt()
        self.actors: dict[str, Actor] = {}

    def _watch_ledger(self) -> None:
        results = self.core.parts.results
        put, verified, begin = results.put, results.verified, results.begin_ledger

        def watched(key: str, entry: Entry) -> None:
            self.put[key] = entry
            put(key, entry)

        def seen(key: str, entry: Entry) -> None:
            self.put[key] = entry
            verified(key, entry)

        def begun_anew(clock: int) -> None:
            self.put.clear()
            begin(clock)

        results.put, results.verified = watched, seen  # type: ignore[method-assign]
        results.begin_ledger = begun_anew  # type: ignore[method-assign]
        looks = self.core.looks
        learn = looks.learn

        def learned(case: Case, entries: Mapping[str, Entry]) -> None:
            learn(case, entries)
            self.world.learned(self, case)

        case_of = looks.case_of

        def begun(key: str, study_pk: int, study_iuid: str) -> Case:
            case = case_of(key, study_pk, study_iuid)
            if not case.known:
                self.world.asks_the_disk(self, key)
            return case

        looks.learn, looks.case_of = learned, begun  # type: ignore[method-assign]
        settlement = self.core.parts.settlement
        nothing = settlement.nothing

        def settled(case: Case, owner: object, hints: Hints, entry: Entry | None, now: Now) -> None:
            if hints.rows or (case.entry is not None and case.entry.unverified):
                self.world.settled_by_ledger(self, entry)
            nothing(case, owner, hints, entry, now)

        settlement.nothing = settled  # type: ignore[method-assign]

    # --- what actors use ---------------------------------------------------------------------------------

    def now(self) -> Now:
        world = self.world
        return Now(world.seconds, world.archive.now + self.clock_ahead)

    def gate_changed(self, change: Change) -> None:
        self.world.say("gate", change.gate.value)
        if change.unpark_seconds:
            since = self.world.seconds - change.unpark_seconds
            self.unpark_since = since if self.unpark_since is None else min(since, self.unpark_since)

    def remember(self, name: str, value: object) -> None:
        """A value of the durable state by name."""
        self.core.parts.results.set(name, value)
        self.meta[name] = value

    def doubt(self) -> None:
        """The index may have lost what the ledger says: a pass over the index itself is wanted."""
        self.core.doubt()
        self.world.index.doubtful.update(self.world.index.last)
        self.world.doubts += 1
        self.doubted = self.world.doubts
        self.remember("pass_wanted", self.doubted)

    def believe(self, went_back: int | None = None) -> None:
        """It was compared, when it had gone back so often."""
        self.world.say("the ledger is believed again")
        self.core.believe(self.now())
        self.world.index.doubtful.update(case.key for case in self.core.parts.cases)
        self.doubted = None
        self.remember("pass_wanted", None)
        if went_back == self.world.index.went_back:
            self.world.believed(self)

    def committed(self, generation: int) -> None:
        """That generation is on the disk: from now on nothing of it may be sent again."""
        unsure = []
        for wanted, request in self.unsure:
            if wanted <= generation:
                for arrival in request.arrivals:
                    arrival.sure = True
            else:
                unsure.append((wanted, request))
        self.unsure = unsure

    # --- its life ----------------------------------------------------------------------------------------

    def begin(self, steps: dict[str, Steps]) -> None:
        """With these actors, by name."""
        self.actors = {name: Actor(name, generator) for name, generator in steps.items()}

    def step(self, name: str) -> None:
        actor = self.actors[name]
        try:
            actor.waits_for = next(actor.steps)
        except StopIteration:
            del self.actors[name]

    def ready(self) -> list[str]:
        return [name for name, actor in self.actors.items() if actor.ready()]

    def stop(self) -> None:
        """A signal: nothing more is sent, what is in flight ends and becomes durable."""
        if self.stopping:
            return
        self.stopping = True
        for name in list(self.actors):
            if name not in ("write", "send"):
                self.actors.pop(name).steps.close()
        unproven = self.core.parts.settlement.unproven
        if self.world.config.reports and unproven.changed:
            unproven.changed = False
            self.remember("unproven", unproven.study_pks)
        self.core.end()

    def kill(self) -> None:
        """At once, wherever it is: nobody gives anything back."""
        for request in self.requests:
            request.alive = False
        self.actors.clear()

    @property
    def drained(self) -> bool:
        """After ``stop``: whether it may end."""
        return (
            self.stopping
            and not self.requests
            and not self.core.parts.results.pending
            and "send" not in self.actors
        )

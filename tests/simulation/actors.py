"""The threads that send and write, and who brings backfills, as actors."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from cdc_indexer.flow.backfill import Backfill
from cdc_indexer.flow.case import Insist
from cdc_indexer.flow.compare import compare
from cdc_indexer.flow.readings import Found
from cdc_indexer.flow.verdict import Gate
from cdc_indexer.model.outcome import Kind, Outcome
from cdc_indexer.model.study import names, study_key
from tests.simulation.auditing import auditor, look_up, measure_clock
from tests.simulation.index import Request
from tests.simulation.invariants import check_parked
from tests.simulation.process import Away, Process, Steps
from tests.simulation.readers import once, patients, stream, verify
from tests.simulation.reporting import Unavailable, compare_with_index, report

if TYPE_CHECKING:
    pass

HOLD_BACK = timedelta(minutes=10)
AUDIT_SECONDS = 60.0
_ID_MAX = 2**64 - 1
GONE_SECONDS = 600.0
PAGE = 3


class NoBinlog(Exception):
    """There is no binary log."""


def steps_of(p: Process) -> dict[str, Steps]:
    """The actors of a process, by name."""
    steps: dict[str, Steps] = {
        "write": write(p),
        "send": send(p),
        "verify": verify(p),
        "patients": patients(p),
    }
    if p.mode == "run":
        steps["stream"] = stream(p)
        steps["audit"] = auditor(p)
    elif p.mode == "once":
        steps["once"] = once(p)
    steps["feed"] = feed(p)
    if p.mode != "initial":
        steps["sweep"] = sweep(p)
        steps["retry"] = retry(p)
        if p.world.config.reports:
            steps["report"] = report(p)
    return steps


# --- the index -------------------------------------------------------------------------------------------


def send(p: Process) -> Steps:
    """What is to be sent becomes requests; what the index answers is judged."""
    core, world = p.core, p.world
    state = {"again_at": 0.0}

    def something() -> bool:
        if any(request.outcomes is not None for request in p.requests):
            return True
        order = core.parts.order
        if p.stopping:
            return not p.requests
        return (
            order.active < order.concurrency
            and order.pending > order.active
            and world.seconds >= state["again_at"]
        )

    while True:
        yield something
        answered = next((request for request in p.requests if request.outcomes is not None), None)
        if answered is not None:
            state["again_at"] = 0.0
            yield from _judge(p, answered)
        elif p.stopping:
            return
        elif not world.disk.full:
            sends, seconds = core.take_sends(p.now())
            for one in sends:
                world.sent(p, one)
                p.requests.append(Request(one, world.seconds, world.index.recovered))
            if not sends:
                state["again_at"] = world.seconds + min(max(seconds, 0.01), 1.0)


def _judge(p: Process, request: Request) -> Steps:
    core = p.core
    outcomes = request.outcomes
    assert outcomes is not None
    asked: Outcome | None = None
    if core.asks(outcomes, p.now()):
        yield None
        asked = p.world.index.get()
        yield None
    p.requests.remove(request)
    if core.parts.order.gate is not Gate.OPEN:
        p.closed_at = p.world.seconds
    generation, changes = core.judge(request.send, outcomes, p.now(), began=request.began, asked=asked)
    check_parked(p, request)
    if core.parts.order.gate is not Gate.OPEN and (asked is None or asked.kind is not Kind.ACCEPTED):
        p.recovered_by_then = request.recovered
    if generation is not None:
        p.unsure.append((generation, request))
    for change in changes:
        p.gate_changed(change)


# --- the disk --------------------------------------------------------------------------------------------


def write(p: Process) -> Steps:
    core, world = p.core, p.world
    results = core.parts.results
    while True:
        yield lambda: results._taken != results.generation
        generation, changes = core.take_changes(p.now())
        yield None
        while world.disk.full:
            yield lambda: not world.disk.full
        world.commit(p, generation, changes)
        yield None
        core.durable(generation, p.now())


# --- backfills -------------------------------------------------------------------------------------------


def feed(p: Process) -> Steps:
    """`initial`, fed to a `run` or alone."""
    core, world = p.core, p.world
    backfills, results = core.backfills, core.parts.results
    while True:
        yield lambda: p.initial_wanted is not None or "initial" in world.disk.jobs
        restart, p.initial_wanted = bool(p.initial_wanted), None
        state = world.disk.jobs.get("initial")
        if p.mode == "initial" and core.parts.progress.position is None:
            try:
                server = p.source.connect()
                epoch = p.source.epoch
                measure_clock(p, server)
                yield None
                world.skip_log(server)
                core.intake.restart_stream(
                    server.end() if server.log_on else None, server.identity, epoch=epoch
                )
            except Away:
                p.finished = True
                return
        if restart and world.config.restarts:
            backfills.begin_ledger(p.now())
            if p.doubted is not None:
                p.believe()
            world.index.anew_for.update(world.index.last)
            state = None
        world.runs += 1
        job = Backfill("initial", f"run{world.runs}", {}, state)
        generation = results.follow(job)
        yield lambda generation=generation: world.durable_generation >= generation  # type: ignore[misc]
        world.initial_began()
        last = False
        while not last:
            if not backfills.room():
                yield backfills.room
            version = core.looks.draw(p.now())
            if version is None:
                pause = world.seconds + core.looks.wait_seconds(p.now())
                yield lambda pause=pause: world.seconds >= pause and not results.pending  # type: ignore[misc]
                continue
            yield None
            try:
                core.parts.enter(p.source.epoch)
                epoch = core.parts.epoch
                server = p.source.at(epoch)
                view = server.view()
                limit = world.config.page
                studies = [values for pk, values in view.items() if pk > job.read_pk][:limit]
                rows: dict[int, list[tuple[int, object]]] = {}
                for row_id, row in server.outbox.items():
                    if (
                        row.visible
                        and row.row.operation in ("stored", "changed")
                        and row.row.recorded_at is not None
                    ):
                        rows.setdefault(row.row.study_pk, []).append((row_id, row.row.recorded_at))
            except Away:
                pause = world.seconds + 1.0
                yield lambda pause=pause: world.seconds >= pause  # type: ignore[misc]
                continue
            again = False
            for start in range(0, len(studies), world.config.chunk):
                if not backfills.room():
                    yield backfills.room
                yield None
                chunk = studies[start : start + world.config.chunk]
                reading = backfills.offer(job, chunk, rows, version, epoch, p.now())  # type: ignore[arg-type]
                if reading is None:
                    again = True
                    break
                try:
                    yield None
                    entries = world.disk.lookup(reading.keys)
                    yield None
                    core.looks.end(reading, Found(epoch, entries=entries), p.now())
                    world.decided(p)
                finally:
                    core.looks.give_back(reading, p.now())
            if again:
                continue
            if studies:
                job.passed(names(studies[-1])[1])
            last = len(studies) < limit
        yield lambda job=job: not job.open  # type: ignore[misc]
        results.forget("initial")
        yield lambda: not results.pending
        world.initial_done()
        if p.mode == "initial":
            yield lambda: not results.pending
            p.finished = True
            return


def sweep(p: Process) -> Steps:
    """View against ledger; its findings are hints. Gone is what two readings of one epoch, ten minutes apart, don't show."""
    core, world = p.core, p.world
    missing_since: dict[str, tuple[float, int]] = {}
    while True:
        # Once audit and stream have caught up.
        yield lambda: (p.sweep_wanted > 0 or p.doubted is not None) and (p.auditing or p.mode != "run")
        p.sweep_wanted = max(p.sweep_wanted - 1, 0)
        doubted, went_back = p.doubted, world.index.went_back
        try:
            epoch = p.source.epoch
            view = p.source.at(epoch).view()
            yield None
            ledger = dict(world.disk.ledger)
            yield None
            keys = {study_key(*names(values)): values for values in view.values()}
            busy = {key for key in (*keys, *ledger) if core.busy(key)}
            found = compare(
                core.parts.policy,
                [values for key, values in keys.items() if key not in busy],
                {key: entry for key, entry in ledger.items() if key not in busy},
                scope_pk=0,
            )
            yield None
            differing = [*found.missing, *found.stale]
            for uid, pk in differing:
                if not core.backfills.room():
                    yield core.backfills.room
                core.backfills.hint(uid, pk, p.now())
                yield None
            gone = {entry.study_iuid: entry for entry in found.gone}
            for key in [key for key in missing_since if key not in gone]:
                del missing_since[key]
            for key, entry in gone.items():
                since, seen_in = missing_since.setdefault(key, (world.seconds, epoch))
                if seen_in != epoch:
                    missing_since[key] = (world.seconds, epoch)
                elif world.seconds - since >= GONE_SECONDS and core.parts.policy.deletes:
                    core.backfills.hint(key, entry.study_pk, p.now(), gone=True)
                    del missing_since[key]
                    yield None
            if world.config.reports:
                keys_sent = [study_key(*one) for one in differing]
                yield lambda keys_sent=keys_sent: not any(map(core.busy, keys_sent))  # type: ignore[misc]
                yield from compare_with_index(p, epoch)
                if doubted is not None and p.doubted == doubted:
                    p.believe(went_back)
            world.say("swept")
        except (Away, Unavailable):
            pause = world.seconds + 1.0
            yield lambda pause=pause: world.seconds >= pause  # type: ignore[misc]
            p.sweep_wanted += doubted is None


def retry(p: Process) -> Steps:
    """The tick: parked studies that somebody marked, and those that were parked on a wrong suspicion.

    And what wasn't looked up, since the ledger was begun anew in that moment.
    """
    core, world = p.core, p.world
    disk = world.disk
    while True:
        yield (
            lambda: (
                (core.intake.looking_up and world.seconds >= p.look_up_at)
                or (p.unpark_since is not None and not core.parts.results.pending)
                or any(
                    parked.retry and core.parts.cases.get(key) is None and core.backfills.room()
                    for key, parked in disk.parked.items()
                )
            )
        )
        yield from look_up(p)
        if p.unpark_since is not None and not core.parts.results.pending:
            for parked in disk.parked.values():
                if parked.at >= p.unpark_since and parked.parking.status is not None:
                    parked.retry = True
            p.unpark_since = None
        yield None
        marked = [parked.parking for parked in disk.parked.values() if parked.retry]
        yield None
        for parking in marked:
            if core.backfills.room() and core.parts.cases.get(parking.study_key) is None:
                core.backfills.hint(
                    parking.study_iuid,
                    parking.study_pk,
                    p.now(),
                    gone=parking.operation == "delete",
                    insist=Insist.RETRY,
                    seed=parking.idempotency_key,
                )
        yield None

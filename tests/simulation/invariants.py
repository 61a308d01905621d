"""What has to hold: after every durable step, and once everything has come to rest."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from cdc_indexer.flow.case import NO_HINTS, Hints
from cdc_indexer.flow.decide import DOUBT
from cdc_indexer.model.moment import EPOCH, moment
from cdc_indexer.model.outcome import Kind
from cdc_indexer.model.position import Position
from cdc_indexer.model.settled import IntervalSet, minute_of
from cdc_indexer.model.study import study_document
from tests.simulation.index import Broken

if TYPE_CHECKING:
    from tests.simulation.index import Request
    from tests.simulation.process import Process
    from tests.simulation.world import World

__all__ = [
    "check_bounds",
    "check_disk",
    "check_jobs",
    "check_parked",
    "check_same",
    "check_transactions",
    "restless",
]


def check_disk(world: World, changes: Any) -> None:
    """The position on the disk is the end of a transaction, and every row before it is settled there."""
    for ids in changes.settled.values():
        if ids is not None:
            for first, last in IntervalSet.parse(json.loads(ids)):
                world.settled.update(range(first, last + 1))
    position = changes.meta.get("position")
    if position is None or changes.meta.get("identity") is None:
        return
    server = world.server
    if changes.meta["identity"]["server"] != server.identity.server:
        return
    place = Position(**position)
    index = server.index_of(place)
    if index is None:
        return  # purged, or of a log that was reset
    until = until_of(world)
    for logged in server.log[:index]:
        for event in logged.events:
            for row in event or ():
                known = row.id in world.settled or row.id in world.ahead_of_stream
                # Ids of a time that `until` has passed are forgotten, perhaps in the step that settles them.
                forgotten = row.recorded_at is None or row.recorded_at <= until or world.clock_jumped
                if not known and not forgotten:
                    raise Broken(f"the position {place} is past row {row.id}, which isn't settled")


def check_jobs(world: World, process: Process) -> None:
    """A backfill that is taken up again after a kill begins before each of its studies that are under way."""
    for name, job in process.core.parts.results._backfills.items():
        state = world.disk.jobs.get(name)
        if state is not None and state["run"] == job.run:
            behind = [pk for pk in job._open if pk <= state["after_pk"]]
            if behind:
                raise Broken(f"{name} would go on behind {state['after_pk']}, and {behind} are under way")


def check_bounds(world: World, process: Process) -> None:
    """Memory stays within what was promised, whatever comes."""
    parts, config = process.core.parts, world.config
    if len(parts.cases) > config.max_studies + 12:
        raise Broken(f"{len(parts.cases)} studies under way")
    if parts.order.active > config.concurrency:
        raise Broken(f"{parts.order.active} requests at a time")
    flying: set[str] = set()
    for request in process.requests:
        for delivery in request.send.deliveries:
            if delivery.key in flying:
                raise Broken(f"two versions of {delivery.key} are in flight together")
            flying.add(delivery.key)


def check_parked(process: Process, request: Request) -> None:
    """What the index would take isn't parked since it worked again when it was asked what that meant."""
    index = process.world.index
    once = index.recovered <= process.recovered_by_then + 1
    for delivery, outcome in request.send.final:
        if (
            outcome.kind is Kind.REJECTED
            and outcome.status == 400
            and process.closed_at > request.began
            and once
        ):
            raise Broken(f"{delivery.key} is parked, and what rejected all of them had only just recovered")


def check_transactions(process: Process) -> None:
    """Each transaction of the stream waits for the rows of it that are under way; for one more it would wait for ever."""
    parts, progress = process.core.parts, process.core.parts.progress
    if parts.stream_epoch < parts.rows_epoch:
        return  # that stream is over
    under_way = Counter(id(one) for one in progress._claimed.values() if one is not None)
    for one in (*progress._transactions, progress._reading):
        if one.open_rows != under_way[id(one)]:
            raise Broken(f"a transaction waits for {one.open_rows} rows: {under_way[id(one)]} are under way")


def restless(world: World, process: Process) -> str:
    """What isn't at rest in a `run` to which nothing happens; empty: it is."""
    parts, core = process.core.parts, process.core
    progress = parts.progress
    said = {
        "studies under way": len(parts.cases),
        "leases": parts.cases.leased,
        "studies whose entry is looked up": len(core.intake._to_look_up),
        "deliveries": parts.order.pending,
        "slots": parts.order.active,
        "patients": len(parts.patients.open),
        "rows under way": progress.claimed_count,
        "hints": parts.cases._hints,
        "results that aren't durable": int(parts.results.pending),
        "requests": len(process.requests),
        "a job": len(world.disk.jobs),
        "a doubt": int(process.doubted is not None),
        "hints of everybody's": int(repr(NO_HINTS) != repr(Hints())),
    }
    for what, count in said.items():
        if count:
            return f"{count} {what}"
    if "stream" not in process.actors:
        return "no stream"
    if progress.position != world.server.end():
        return f"the position is {progress.position}, the log ends at {world.server.end()}"
    newest = world.server.newest(moment(world.clock()))
    if newest is not None and not world.clock_jumped:
        held = minute_of(min(newest, moment(world.clock()) - timedelta(minutes=13)))
        if until_of(world) < held and newest < moment(world.clock()) - timedelta(minutes=13):
            return f"`until` stays at {until_of(world)}"
    return ""


def check_same(world: World) -> None:
    """The index holds what the archive holds, as far as that is what the settings want."""
    policy, index = world.policy, world.index
    # What it took just before a kill, and what was undone in the archive before the start, nobody knows but digests.
    unknown = {uid for uid in world.uncertain if uid in index.last and not index.last[uid].sure}
    view = {values["study_iuid"]: values for values in world.server.view().values()}
    for uid, values in view.items():
        held = index.studies.get(uid)
        if uid in world.disk.parked or uid in unknown:
            continue
        if held is None or held.body is None:
            raise Broken(f"{uid} is lost: the index {'deleted it' if held else 'never got it'}")
        document = study_document(values, policy.center)
        if policy.updates and held.body != document.body:
            raise Broken(f"{uid} differs: the index has {held.mark}, the archive {values}")
    for uid in world.disk.parked:
        entry = world.disk.ledger.get(uid)
        if entry is None and world.config.restarts and uid not in view:
            continue  # a new ledger doesn't know it, and nothing brings it up again but a person
        if entry is None or entry.rejected in (None, DOUBT):
            raise Broken(f"{uid} stays parked, though something else was accepted")
    if policy.deletes:
        for uid, held in index.studies.items():
            # A new ledger doesn't know what the old one did.
            if uid in view or uid in unknown or (world.config.restarts and uid not in world.disk.ledger):
                continue
            entry = world.disk.ledger.get(uid)
            if world.settings_changed and entry is not None and entry.deleted:
                continue  # deleted while deletions were ignored
            if held.body is not None and uid not in world.disk.parked:
                raise Broken(f"{uid} is gone from the archive and still in the index")


def until_of(world: World) -> datetime:
    return datetime.fromisoformat(world.disk.meta.get("until", EPOCH.isoformat()))

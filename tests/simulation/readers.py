"""The threads that read the archive's database, as actors: stream, verifier; and `run --until-caught-up`."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from cdc_indexer.flow.readings import Found
from cdc_indexer.model.position import Position
from tests.simulation.auditing import full_audit, measure_clock, take_rows
from tests.simulation.index import Broken
from tests.simulation.process import Away, Process, Steps

if TYPE_CHECKING:
    from tests.simulation.archive import Server

HOLD_BACK = timedelta(minutes=10)
AUDIT_SECONDS = 60.0
_ID_MAX = 2**64 - 1
GONE_SECONDS = 600.0
PAGE = 3


class NoBinlog(Exception):
    """There is no binary log."""


# --- the stream ------------------------------------------------------------------------------------------


def stream(p: Process) -> Steps:
    """`run`'s worker: connects, audits, streams, recovers."""
    while True:
        try:
            yield from _stream(p)
        except Away:
            p.auditing = False
            again = p.world.seconds + 1.0
            yield lambda again=again: p.world.seconds >= again  # type: ignore[misc]
        except NoBinlog:
            yield from _degraded(p)


def _stream(p: Process) -> Steps:
    world, core = p.world, p.core
    progress = core.parts.progress
    server = p.source.connect()
    epoch = p.source.epoch
    if not server.log_on:
        raise NoBinlog
    position = progress.position
    if (position is not None and (progress.identity != server.identity or p.position_lost)) or (
        position is not None and server.index_of(position) is None
    ):
        position = None
    p.fresh_position = position is None
    if position is None:
        position = server.end()
        world.skip_log(server)
    lost, p.position_lost = p.position_lost, False
    yield None
    core.intake.restart_stream(position, server.identity, epoch=epoch, lost=lost)
    world.say("connected", position)
    yield None
    yield from full_audit(p, server)
    at = server.index_of(position)
    if at is None:
        p.position_lost = True
        raise Away
    p.auditing = True
    state = _Place(at, server.log_life)

    def something() -> bool:
        """There is more in the log, or it is another one."""
        if world.server is not server or world.database_away or not server.log_on or p.source.epoch != epoch:
            return True
        return state.at < len(server.log) or server.log_life != state.life

    while True:
        yield something
        if p.source.connect() is not server or p.source.epoch != epoch:
            raise Away
        if server.log_life != state.life:
            # Purged, or reset, while it was read.
            _find(p, server, position, state)
        if state.at >= len(server.log):
            if not server.log_on:
                raise NoBinlog
            continue
        logged = server.log[state.at]
        for event in logged.events:
            if event is None:
                p.quick_audits = 3
            else:
                yield from take_rows(p, event, epoch, streamed=True)
            yield None
        core.intake.end_transaction(logged.end)
        position = logged.end
        _find(p, server, position, state)


class _Place:
    """Where in the log the stream is, and in which one."""

    def __init__(self, at: int, life: int) -> None:
        self.at = at
        self.life = life


def _find(p: Process, server: Server, position: Position, place: _Place) -> None:
    at = server.index_of(position)
    if at is None:
        p.position_lost = True
        raise Away
    place.at, place.life = at, server.log_life


def _degraded(p: Process) -> Steps:
    world = p.world
    p.fresh_position = True
    again = world.seconds + 60.0
    while world.seconds < again:
        server = None
        try:
            server = p.source.connect()
            epoch = p.source.epoch
            yield None
            p.core.intake.restart_stream(None, server.identity, epoch=epoch)
            yield from full_audit(p, server)
        except Away:
            pass
        pause = world.seconds + 5.0
        yield lambda pause=pause: world.seconds >= pause  # type: ignore[misc]


# --- once ------------------------------------------------------------------------------------------------


def once(p: Process) -> Steps:
    """`run --until-caught-up`."""
    core, world = p.core, p.world
    results = core.parts.results
    try:
        server = p.source.connect()
        epoch = p.source.epoch
        measure_clock(p, server)
        yield None
        world.skip_log(server)
        core.intake.restart_stream(server.end() if server.log_on else None, server.identity, epoch=epoch)
        first = True
        while True:
            before = p.found
            yield from full_audit(p, server)
            found = p.found > before
            if first:
                core.hurry()
            elif not found:
                break
            first = False
            yield lambda: core.at_rest(p.now())
        generation = results.generation
        yield lambda: not results.pending
        assert generation
    except Away:
        pass
    p.finished = True
    world.say("caught up")


# --- the view --------------------------------------------------------------------------------------------


def verify(p: Process) -> Steps:
    core, world = p.core, p.world
    looks = core.looks
    while True:
        yield lambda: core.reading_seconds(p.now()) <= 0 and len(core.parts.cases) > 0
        core.parts.enter(p.source.epoch)
        reading = looks.begin(p.now(), limit=world.config.reading_limit)
        if reading is None:
            # Nothing is due, or there is no room: a moment.
            pause = world.seconds + 0.05
            yield lambda pause=pause: world.seconds >= pause  # type: ignore[misc]
            continue
        try:
            yield None
            server = p.source.at(reading.epoch)
            visible = server.visible(reading.row_ids)
            hidden = world.hidden(p, reading)
            yield None
            missing = set(reading.row_ids) - visible
            unseen = p.source.at(reading.epoch).uncommitted(missing)
            yield None
            view = p.source.at(reading.epoch).view()
            studies = {pk: view[pk] for pk in reading.study_pks if pk in view}
            yield None
            by_uid = p.source.at(reading.epoch).by_uid(reading.study_iuids) if reading.study_iuids else {}
            yield None
            newest = {}
            if core.parts.policy.stable:
                newest = p.source.at(reading.epoch).newest_rows(reading.study_pks)
                yield None
            entries = world.disk.lookup(reading.keys)
            yield None
            found = Found(reading.epoch, studies, by_uid, unseen=unseen, newest=newest, entries=entries)
            late = core.parts.epoch != reading.epoch or p.source.epoch != reading.epoch
            pending, progress = core.parts.order.pending, core.parts.progress
            open_rows = [row_id for row_id in reading.row_ids if not progress.is_settled(row_id)]
            core.parts.enter(p.source.epoch)
            looks.end(reading, found, p.now())
            if late and (core.parts.order.pending > pending or any(map(progress.is_settled, open_rows))):
                raise Broken("what was read in another epoch decides something")
            if reading.epoch == core.parts.epoch:
                world.decided_without(p, hidden)
            world.decided(p)
        except Away:
            pause = world.seconds + 1.0
            looks.give_back(reading, p.now())
            yield lambda pause=pause: world.seconds >= pause  # type: ignore[misc]
        finally:
            looks.give_back(reading, p.now())


def patients(p: Process) -> Steps:
    core, world = p.core, p.world
    while True:
        yield lambda: core.parts.patients.waits(world.seconds) and core.backfills.room()
        # As the verifier, which reads studies and patients in turn, does it before each.
        core.parts.enter(p.source.epoch)
        page = core.backfills.begin_page(p.now())
        if page is None:
            continue
        try:
            yield None
            server = p.source.at(page.epoch)
            missing = set(page.row_ids) - server.visible(page.row_ids)
            yield None
            if p.source.at(page.epoch).uncommitted(missing):
                continue
            yield None
            view = p.source.at(page.epoch).view()
            found = [v for pk, v in view.items() if v["patient_pk"] == page.patient_pk and pk > page.after_pk]
            limit = world.config.page
            yield None
            core.backfills.end_page(page, found[:limit], p.now(), limit=limit, epoch=page.epoch)
            if len(found) > limit and any(change.read for change in page.changes):
                raise Broken(f"patient {page.patient_pk} counts as read, and has more studies")
        except Away:
            core.backfills.give_back_page(page, p.now())
            pause = world.seconds + 1.0
            yield lambda pause=pause: world.seconds >= pause  # type: ignore[misc]
        finally:
            core.backfills.give_back_page(page, p.now())

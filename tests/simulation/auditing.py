"""How rows come in, and the audit of the table, as actors: jobs/audit.py and `Engine.bring`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cdc_indexer.model.moment import EPOCH, moment
from cdc_indexer.model.settled import minute_of
from cdc_indexer.model.study import OutboxRow
from tests.simulation.process import Away, Process, Steps

if TYPE_CHECKING:
    from tests.simulation.archive import Server

HOLD_BACK = timedelta(minutes=10)
AUDIT_SECONDS = 60.0
TICK_SECONDS = 1.0
_ID_MAX = 2**64 - 1
GONE_SECONDS = 600.0
PAGE = 3


# --- rows ------------------------------------------------------------------------------------------------


def take_rows(
    p: Process,
    rows: Sequence[OutboxRow],
    epoch: int,
    *,
    streamed: bool = False,
    superseded: frozenset[int] = frozenset(),
) -> Steps:
    """Rows that were read in that epoch come in, one by one, and the ledger is asked about new studies."""
    core = p.core
    for row in rows:
        if not core.room():
            # Who waits for room has to have asked about what it brought.
            yield from look_up(p)
            yield core.room
        core.parts.enter(p.source.epoch)
        if epoch != core.parts.epoch:
            raise Away
        if core.intake.take(row, p.now(), streamed=streamed, superseded=row.id in superseded):
            p.found += 1
            p.world.row_taken(row.id)
        yield None
    yield from look_up(p)


def look_up(p: Process) -> Steps:
    intake = p.core.intake
    if intake.looking_up:
        p.look_up_at = p.world.seconds + TICK_SECONDS
        number, keys = intake.to_look_up()
        yield None
        entries = p.world.disk.lookup(keys)
        yield None
        intake.looked_up(number, keys, entries, p.now())
        p.world.decided(p)


# --- the audit -------------------------------------------------------------------------------------------


def auditor(p: Process) -> Steps:
    world = p.world
    while True:
        yield lambda: p.auditing and (world.seconds >= p.full_at or p.quick_audits > 0)
        try:
            server = p.source.connect()
            if world.seconds >= p.full_at:
                yield from full_audit(p, server)
            elif p.quick_audits > 0:
                p.quick_audits -= 1
                if p.quick_audits == 0:
                    p.full_at = min(p.full_at, world.seconds + 5.0)
                yield from quick_audit(p, server)
        except Away:
            p.full_at = min(p.full_at, world.seconds + 5.0)
            again = world.seconds + 1.0
            yield lambda again=again: world.seconds >= again  # type: ignore[misc]


def full_audit(p: Process, server: Server) -> Steps:
    """As jobs/audit.py: what the binary log didn't bring, and how far everything is settled. One at a time."""
    yield lambda: not p.audit_running
    p.audit_running = True
    try:
        yield from _full_audit(p, server)
    finally:
        p.audit_running = False


def _full_audit(p: Process, server: Server) -> Steps:
    world, core = p.world, p.core
    progress = core.parts.progress
    first, p.first_audit = p.first_audit, False
    try:
        if first:
            measure_clock(p, server)
            core.intake.restore(world.disk.unverified(), p.now())
        yield None
        epoch = p.source.epoch
        server = p.source.at(epoch)
        now = measure_clock(p, server)
        _watch_clock(p, now)
        mark = (progress.until, _ID_MAX)
        oldest = None
        newest = server.newest(now) or EPOCH
        while True:
            yield None
            server = p.source.at(epoch)
            page = server.ids_after(mark, PAGE)
            yield None
            unknown = []
            for recorded_at, row_id in page:
                if progress.is_settled(row_id):
                    continue
                oldest = recorded_at if oldest is None else min(oldest, recorded_at)
                if not progress.known(row_id):
                    unknown.append(row_id)
            if unknown:
                yield from _hand_over(p, epoch, unknown)
            if len(page) < PAGE:
                break
            mark = page[-1]
        until = minute_of(min(now - HOLD_BACK, newest))
        if oldest is not None:
            until = min(until, minute_of(oldest - timedelta(microseconds=1)))
        if until > progress.until:
            server = p.source.at(epoch)
            end = server.end() if server.log_on else None
            yield None
            if epoch == p.source.epoch:
                core.propose_until(until, end)
        p.full_at = world.seconds + AUDIT_SECONDS
    except BaseException:
        p.first_audit = first
        raise


def measure_clock(p: Process, server: Server) -> datetime:
    """Asks for the database's clock."""
    p.clock_ahead = server.clock_ahead
    return moment(p.world.archive.now + server.clock_ahead)


def _hand_over(p: Process, epoch: int, ids: list[int]) -> Steps:
    rows = p.source.at(epoch).rows(ids)
    yield None
    superseded = p.source.at(epoch).superseded()
    yield None
    yield from take_rows(p, rows, epoch, superseded=superseded)


def quick_audit(p: Process, server: Server) -> Steps:
    yield lambda: not p.audit_running
    p.audit_running = True
    try:
        epoch = p.source.epoch
        mark = (p.core.parts.progress.until, _ID_MAX)
        while True:
            server = p.source.at(epoch)
            page = server.ids_after(mark, PAGE)
            rows = server.rows(row_id for _, row_id in page)
            yield None
            yield from take_rows(p, rows, epoch)
            if len(page) < PAGE:
                return
            mark = page[-1]
    finally:
        p.audit_running = False


def _watch_clock(p: Process, now: datetime) -> None:
    core = p.core
    p.world.back_unseen = False
    before, p.clock_seen = p.clock_seen, now
    before_at, p.clock_seen_at = p.clock_seen_at, p.world.seconds
    until = core.parts.progress.until
    unseen = timedelta(seconds=p.clock_seen_at - before_at) if before is not None else timedelta()
    back = (until > EPOCH and now < until + HOLD_BACK / 2) or (
        before is not None
        and now < before + max(unseen - timedelta(minutes=1), timedelta()) - timedelta(seconds=2)
    )
    if back:
        core.take_until_back(minute_of(now - unseen - HOLD_BACK))

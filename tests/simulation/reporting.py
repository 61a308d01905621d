"""Reports, and a pass over the index itself, as actors: jobs/reporter.py, jobs/differing.py and jobs/gone.py.

By these an index that went back in time is noticed, and gets again what it lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdc_indexer.flow.backfill import Backfill
from cdc_indexer.flow.case import Insist
from cdc_indexer.flow.compare import digest_of, expected
from cdc_indexer.flow.unproven import Accepted, shows_loss
from cdc_indexer.model.study import names, study_key
from tests.simulation.process import Process, Steps

if TYPE_CHECKING:
    from cdc_indexer.model.ledger import Entry

REPORT_SECONDS = 60.0
GONE_SECONDS = 600.0
_LAST = 2**63
#: Between two parts of a pass.
REST_SECONDS = 0.05
#: A difference counts when two looks in a row show it.
LOOKS = 4


class Unavailable(Exception):
    """The index can't be asked just now."""


# --- reports ---------------------------------------------------------------------------------------------


def report(p: Process) -> Steps:
    core, world = p.core, p.world
    unproven = core.parts.settlement.unproven
    if isinstance(pks := p.meta.get("unproven"), list):
        entries = [entry for entry in world.disk.ledger.values() if entry.study_pk in pks]
        yield None
        unproven.give_back(
            (entry.study_iuid, Accepted(entry.study_pk, (), entry.digest))
            for entry in entries
            if entry.digest is not None
        )
    known = False
    while True:
        yield lambda: unproven.changed or world.seconds >= p.report_at
        if unproven.changed:
            unproven.changed = False
            p.remember("unproven", unproven.study_pks)
            yield None
        if world.seconds < p.report_at:
            continue
        p.report_at = world.seconds + REPORT_SECONDS
        caught_up = p.auditing
        try:
            yield from _report(p, known)
            known = caught_up
        except Unavailable:
            p.report_at = world.seconds + 4.0


def _report(p: Process, all_known: bool) -> Steps:
    """``all_known``: the highest version at the index is one of ours, or another process sends."""
    core, world = p.core, p.world
    settlement, index = core.parts.settlement, world.index
    while True:
        last = core.parts.clock.last
        at = core.looks.draw(p.now())
        if at is not None:
            break
        again = world.seconds + core.looks.wait_seconds(p.now())
        yield lambda again=again: world.seconds >= again and not core.parts.results.pending  # type: ignore[misc]
    newest, taken = settlement.highest, settlement.unproven.take()
    accepted = max(newest, p.meta.get("highest") or 0)
    try:
        yield None
        _reach(p)
        previous, highest = index.report(at)
        yield None
        before, clock = p.meta.get("reported_at"), core.parts.clock
        given_out, ours = clock.last, max(last, clock.recorded, settlement.highest, accepted)
        if before is not None and (previous is None or previous < before):
            lost = "the last report"
        elif accepted and (highest is None or highest < accepted):
            lost = "the newest version"
        else:
            yield None
            _reach(p)
            lost = "what came since the last report" if _lacks(p, taken) else ""
    except BaseException:
        settlement.unproven.give_back(taken.items())
        raise
    if lost:
        world.say("the index has lost", lost)
        p.doubt()
        if settlement.highest == newest:
            settlement.highest = highest or 0
        accepted = highest or 0
    elif highest is not None and (highest > max(given_out, accepted) or (all_known and ours < highest < at)):
        core.parts.clock.saw(highest)
        p.doubt()
    p.remember("reported_at", at)
    p.remember("highest", max(accepted, highest or 0))


def _reach(p: Process) -> None:
    if p.world.index.mood != "ok":
        raise Unavailable


def _lacks(p: Process, taken: dict[str, Accepted]) -> bool:
    """It knows our last report, and lacks something of what it has accepted since."""
    held = p.world.index.digests()
    for key, one in taken.items():
        found = held.get(key)
        there = found[1] if found is not None and found[0] == one.study_pk else None
        if shows_loss(one, there) and p.core.lost(key, one):
            return True
    return False


# --- a pass over the index -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """What the index has of a study, and should have; ``extra``: the archive doesn't hold it."""

    uid: str
    pk: int
    held: bytes | None
    wanted: bytes | None
    extra: bool = False


def compare_with_index(p: Process, epoch: int) -> Steps:
    """Part by part, as jobs/sweep.py: what the index has otherwise than it should goes into the ledger, and is looked at."""
    world = p.world
    gone: dict[str, Difference] = {}
    seen_gone = world.seconds
    after_pk, part = 0, max(world.config.page, 4)
    while True:
        pks = [pk for pk in p.source.at(epoch).view() if pk > after_pk][:part]
        until_pk = pks[-1] if len(pks) == part else _LAST
        yield from _compare_part(p, epoch, after_pk, until_pk, gone)
        seen_gone = world.seconds
        if until_pk == _LAST:
            break
        after_pk = until_pk
        again = world.seconds + REST_SECONDS
        yield lambda again=again: world.seconds >= again  # type: ignore[misc]
    if gone and p.core.parts.policy.deletes:
        # Not there by its UID in two readings of one epoch, ten minutes apart.
        again = seen_gone + GONE_SECONDS
        yield lambda: world.seconds >= again
        there = p.source.at(epoch).by_uid(gone)
        yield None
        yield from _send(p, [one for uid, one in gone.items() if uid not in there], Insist.NO)


def _compare_part(p: Process, epoch: int, after_pk: int, until_pk: int, gone: dict[str, Difference]) -> Steps:
    world = p.world
    before: dict[str, Difference] = {}
    done: set[str] = set()
    # What is under way when its page is read is in no range that the index is asked about.
    left_out = {case.key for case in p.core.parts.cases}
    for look in range(LOOKS):
        found: dict[str, Difference] = {}
        yield from _differences(p, epoch, found)
        found = {
            uid: one for uid, one in found.items() if after_pk < one.pk <= until_pk and uid not in left_out
        }
        confirmed = [one for uid, one in found.items() if uid not in done and before.get(uid) == one]
        done.update(one.uid for one in confirmed)
        gone.update((one.uid, one) for one in confirmed if one.extra)
        yield from _deal(p, confirmed)
        before = {uid: one for uid, one in found.items() if uid not in done}
        if not before or look == LOOKS - 1:
            return
        again = world.seconds + p.core.parts.policy.settle_seconds
        yield lambda again=again: world.seconds >= again  # type: ignore[misc]


def _differences(p: Process, epoch: int, found: dict[str, Difference]) -> Steps:
    """As Reconciliation: what the index lists, then the view, then the ledger; what is under way says nothing."""
    core, world = p.core, p.world
    _reach(p)
    held = world.index.digests()
    yield None
    view = {study_key(*names(values)): values for values in p.source.at(epoch).view().values()}
    yield None
    entries = world.disk.lookup([*view, *held])
    yield None
    policy = core.parts.policy
    for key, values in view.items():
        uid, pk = names(values)
        entry = entries.get(key)
        there = held[uid][1] if uid in held else None
        wanted = expected(digest_of(values, entry, policy), entry, policy)
        if core.busy(key):
            continue
        if there != wanted:
            found[uid] = Difference(uid, pk, there, wanted)
        elif there is not None and (entry is None or entry.digest != there):
            _correct(p, key, pk, there, entry)
    for uid, (pk, digest) in held.items():
        entry = entries.get(uid)
        kept = not policy.deletes and entry is not None and entry.deleted and entry.digest == digest
        if uid not in view and not core.busy(uid) and not kept:
            found[uid] = Difference(uid, pk, digest, None, extra=True)


def _correct(p: Process, key: str, pk: int, held: bytes | None, entry: Entry | None) -> bool:
    return p.core.backfills.correct(key, pk, held, entry)


def _deal(p: Process, confirmed: list[Difference]) -> Steps:
    results, world = p.core.parts.results, p.world
    differing: list[Difference] = []
    under_way: list[Difference] = []
    for one in confirmed:
        entries = world.disk.lookup([one.uid])
        yield None
        corrected = _correct(p, one.uid, one.pk, one.held, entries.get(one.uid))
        if not one.extra:
            (differing if corrected else under_way).append(one)
    generation = results.generation
    yield lambda: world.durable_generation >= generation or not results.pending
    yield from _send(p, differing, Insist.NO)
    yield from _send(p, under_way, Insist.RESEND)


def _send(p: Process, some: list[Difference], insist: Insist) -> Steps:
    world = p.world
    world.runs += 1
    job = Backfill("sweep", f"pass{world.runs}", {})
    for one in some:
        if not p.core.backfills.room():
            yield p.core.backfills.room
        p.core.backfills.hint(
            one.uid, one.pk, p.now(), backfill=job, insist=insist, seed=job.run, gone=one.extra
        )
        yield None
    yield lambda: not job.open

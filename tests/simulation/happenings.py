"""What can happen in a world: what the archive, time and the servers do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cdc_indexer.model.moment import moment
from tests.simulation.archive import SHOWN_LATE, ZERO
from tests.simulation.happening import HAPPENINGS, happening

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ["PASSES"]

#: Seconds that pass.
PASSES = (0.02, 0.3, 1.2, 5.5, 31.0, 70.0, 700.0, 4000.0, 100_000.0)


# --- the archive -----------------------------------------------------------------------------------------


@happening("store", 10, lambda world: len(world.primary.studies) < 9)
def store(world: World) -> None:
    archive = world.archive
    transaction, at_once = world.transaction()
    patients = archive.free_patients(transaction)
    choice = world.draw(4)
    patient = patients[world.draw(len(patients))] if patients and choice else archive.new_patient(transaction)
    uids = world.free_uids()
    anew = not uids or (world.draw(2) == 0 and "again" not in world.config.features)
    uid = None if anew else uids[world.draw(len(uids))]
    archive.store(transaction, patient, uid, (2, 0)[world.draw(2)], _late(world))
    if "stale" in world.config.features and world.draw(3) == 2:
        archive.record_stale(transaction)
    transaction.opaque = transaction.opaque or ("opaque" in world.config.features and world.draw(4) == 3)
    world.finish(transaction, at_once)


def _late(world: World) -> int:
    """How long ago a row says that it was recorded, in microseconds."""
    if "late" not in world.config.features:
        return 0
    late = (0, 0, 0, 1_500_000, 45_000_000, 400_000_000, ZERO)[world.draw(7)]
    # One without a time is found by the log alone.
    world.sweep_needed = world.sweep_needed or late == ZERO
    return late


def _of_study(name: str, weight: int, change: Callable[[World, object, object], None]) -> None:
    def do(world: World) -> None:
        transaction, at_once = world.transaction()
        studies = world.archive.free_studies(transaction)
        if studies:
            change(world, transaction, studies[world.draw(len(studies))])
        world.finish(transaction, at_once)

    HAPPENINGS[name] = (weight, lambda world: bool(world.primary.studies), do)


_of_study("change", 12, lambda w, t, s: w.archive.change(t, s, _late(w), instances=s.instances + 1))  # type: ignore[attr-defined,arg-type]
_of_study("delete", 5, lambda w, t, s: w.archive.delete(t, s))  # type: ignore[arg-type]


def _other_patient(world: World, transaction: object, study: object) -> None:
    patients = world.archive.free_patients(transaction)  # type: ignore[arg-type]
    if patients:
        world.archive.change(transaction, study, patient_pk=patients[world.draw(len(patients))].pk)  # type: ignore[arg-type]


_of_study("move", 3, _other_patient)


def _other_uid(world: World, transaction: object, study: object) -> None:
    world.archive.change(transaction, study, uid=world.archive.new_uid())  # type: ignore[arg-type]


_of_study("other uid", 1, _other_uid)


def _without_patient(world: World, transaction: object, study: object) -> None:
    world.archive.change(transaction, study, patient_pk=None)  # type: ignore[arg-type]


_of_study("lose patient", 1, _without_patient)


@happening("rename", 4, lambda world: bool(world.primary.patients))
def rename(world: World) -> None:
    transaction, at_once = world.transaction()
    patients = world.archive.free_patients(transaction)
    if patients:
        world.archive.rename(transaction, patients[world.draw(len(patients))])
    world.finish(transaction, at_once)


@happening("commit", 4, lambda world: any(not one.logged for one in world.primary.transactions))
def commit(world: World) -> None:
    open_ones = [one for one in world.primary.transactions if not one.logged]
    transaction = open_ones[world.draw(len(open_ones))]
    world.primary.log_transaction(transaction)
    if not world.draw(2):
        world.primary.show(transaction)


@happening("show", 2, lambda world: any(one.logged for one in world.primary.transactions))
def show(world: World) -> None:
    logged = [one for one in world.primary.transactions if one.logged]
    world.primary.show(logged[world.draw(len(logged))])


@happening("roll back", 1, lambda world: any(not one.logged for one in world.primary.transactions))
def roll_back(world: World) -> None:
    open_ones = [one for one in world.primary.transactions if not one.logged]
    world.primary.roll_back(open_ones[world.draw(len(open_ones))])


@happening("replicate", 2, lambda world: bool(world.primary.relay) and world.replica is not world.primary)
def replicate(world: World) -> None:
    world.apply_one()


# --- time, servers ---------------------------------------------------------------------------------------


@happening("time", 14)
def time(world: World) -> None:
    world.pass_time(PASSES[world.draw(5 if world.config.short else len(PASSES))])


@happening("rotate", 1)
def rotate(world: World) -> None:
    world.server.rotate()


@happening("purge", 1, lambda world: bool(world.server.log))
def purge(world: World) -> None:
    world.server.purge(1 + world.draw(len(world.server.log)))
    world.log_lost = True


@happening("reset log", 1)
def reset_log(world: World) -> None:
    world.server.reset_log()
    world.log_lost = True


@happening("log off", 1, lambda world: world.server.log_on)
def log_off(world: World) -> None:
    world.server.log_on = False
    world.server.log_life += 1
    world.log_lost = True


@happening("log on", 4, lambda world: not world.server.log_on)
def log_on(world: World) -> None:
    world.server.log_on = True
    world.server.rotate()


@happening("database away", 1, lambda world: not world.database_away)
def database_away(world: World) -> None:
    world.database_away = True


@happening("database back", 4, lambda world: world.database_away)
def database_back(world: World) -> None:
    world.database_away = False


@happening(
    "fail over",
    1,
    lambda world: world.replica is not None and world.server is world.primary is not world.replica,
)
def fail_over(world: World) -> None:
    world.fail_over()


@happening("switch", 2, lambda world: world.replica is not None and world.replica is not world.primary)
def switch(world: World) -> None:
    """Another server answers at the address; both go on, and one of them lags."""
    assert world.replica is not None
    world.server = world.replica if world.server is world.primary else world.primary
    # What it doesn't have yet may be older than what was sent; and what the log doesn't show isn't found by its time.
    world.index.marks_count = False
    # Nor does a replica show what isn't committed on the primary, so that nothing holds `until` back there.
    old = moment(world.clock() - SHOWN_LATE)
    waiting = [*world.primary.transactions, *(world.primary.relay or ())]
    times = [row.row.recorded_at for transaction in waiting for row in transaction.rows]
    hidden = bool({"opaque", "log"}.intersection(world.config.features))
    world.sweep_needed = world.sweep_needed or hidden or any(time is None or time < old for time in times)


@happening("clock jumps", 2)
def clock_jumps(world: World) -> None:
    seconds = (-3, 7200, -7200, 200_000, -200_000)[world.draw(5)]
    world.server.clock_ahead += seconds * 1_000_000
    world.clock_jumped = True
    if seconds < 0:
        # Then which row is the oldest isn't known before all of them have come.
        world.index.keys_count = False
        world.back_unseen = True
    elif world.back_unseen:
        # Nobody has looked at the clock in between: what it dated then, and the log doesn't show, a sweep finds.
        world.sweep_needed = True


@happening("prune", 1, lambda world: bool(world.server.outbox))
def prune(world: World) -> None:
    if world.process is not None:
        # It may have been the newer ones.
        world.process.superseded = frozenset()
    visible = [row_id for row_id, row in world.server.outbox.items() if row.visible]
    for row_id in visible[: 1 + world.draw(3)]:
        del world.server.outbox[row_id]
        world.pruned.add(row_id)
    world.sweep_needed = True
    world.index.keys_count = False


@happening("truncate", 1, lambda world: bool(world.server.outbox) and not world.primary.transactions)
def truncate(world: World) -> None:
    if world.process is not None:
        world.process.superseded = frozenset()
    world.pruned.update(world.server.outbox)
    world.server.outbox.clear()
    world.sweep_needed = True
    world.index.keys_count = False


@happening("triggers off", 1, lambda world: world.archive.triggers_on)
def triggers_off(world: World) -> None:
    world.archive.triggers_on = False
    world.sweep_needed = True


@happening("triggers on", 4, lambda world: not world.archive.triggers_on)
def triggers_on(world: World) -> None:
    world.archive.triggers_on = True

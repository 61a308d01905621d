"""What can happen in a world: what the index, people, processes and the disk do."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cdc_indexer.flow.case import Insist
from cdc_indexer.model.outcome import Kind, Outcome
from tests.simulation.happening import happening

if TYPE_CHECKING:
    from tests.simulation.world import World

# --- the index -------------------------------------------------------------------------------------------


def _waiting(world: World) -> list[object]:
    process = world.process
    return (
        [request for request in process.requests if request.outcomes is None] if process is not None else []
    )


@happening("index", 30, lambda world: bool(_waiting(world)))
def index(world: World) -> None:
    """It takes the request that came first (or another), and answers; or the answer is lost, or late."""
    waiting = _waiting(world)
    request = waiting[world.draw(len(waiting))]
    how = world.draw(8) if "odd answers" in world.config.features else 0
    lost = [Outcome(Kind.RETRY_INDEX, None, reason="timeout")] * len(request.send.deliveries)  # type: ignore[attr-defined]
    if how == 5:  # taken, and the answer is lost
        world.index.take(request)  # type: ignore[arg-type]
        request.outcomes = lost  # type: ignore[attr-defined]
    elif how == 6:  # not taken
        request.outcomes = lost  # type: ignore[attr-defined]
    elif how == 7 and world.config.versions:  # taken later
        request.outcomes = lost  # type: ignore[attr-defined]
        world.zombies.append(request)
    else:
        request.outcomes = world.index.take(request)  # type: ignore[arg-type,attr-defined]


@happening("health changes", 4, lambda world: world.process is not None)
def health_changes(world: World) -> None:
    """Then a report goes at once."""
    assert world.process is not None
    world.process.report_at = 0.0


@happening("late", 6, lambda world: bool(world.zombies))
def late(world: World) -> None:
    """The index takes what was sent by somebody who doesn't wait any more."""
    world.index.take(world.zombies.pop(world.draw(len(world.zombies))))


@happening("mood", 2)
def mood(world: World) -> None:
    world.index.mood = (
        *("ok", "ok", "ok", "refuses", "portal", "busy", "away", "fails", "rejects", "lost"),
    )[world.draw(10)]
    world.say("the index", world.index.mood)


@happening("odd study", 1, lambda world: bool(world.archive.uids))
def odd_study(world: World) -> None:
    uids = sorted(world.archive.uids)
    uid = uids[world.draw(len(uids))]
    (world.index.rejects, world.index.fails)[world.draw(2)].add(uid)


@happening("even study", 1, lambda world: bool(world.index.rejects or world.index.fails))
def even_study(world: World) -> None:
    world.index.rejects.clear()
    world.index.fails.clear()


def _runs(world: World) -> bool:
    return world.process is not None and not world.process.stopping


# --- people, processes, the disk -------------------------------------------------------------------------


@happening("another writer", 2, lambda world: world.config.versions and bool(world.index.studies))
def another_writer(world: World) -> None:
    """Somebody else has sent the same with a higher number."""
    uids = sorted(world.index.studies)
    uid = uids[world.draw(len(uids))]
    version = max(world.index.studies[uid].version, world.clock())
    world.index.raise_version(uid, version + (1, 1_000_000, 3_600_000_000)[world.draw(3)])


@happening("index goes back", 4, lambda world: world.config.reports and world.index.changes > 0)
def index_goes_back(world: World) -> None:
    """It is restored from a backup, or has lost its last changes."""
    world.index.go_back(1 + world.draw(min(world.index.changes, 8)))
    world.went_back = True
    world.say("the index goes back")


@happening("start", 30, lambda world: world.process is None)
def start(world: World) -> None:
    world.start(
        ("run", "run", "run", "once", "initial")[world.draw(5 if "modes" in world.config.features else 1)]
    )


@happening("kill", 2, lambda world: world.process is not None)
def kill(world: World) -> None:
    world.kill()


@happening("term", 1, _runs)
def term(world: World) -> None:
    assert world.process is not None
    world.process.stop()


@happening("ask for initial", 1, _runs)
def initial(world: World) -> None:
    assert world.process is not None
    world.process.initial_wanted = bool(world.draw(2))


@happening(
    "ask for sweep",
    1,
    lambda world: _runs(world) and world.scope_complete and world.process.sweep_wanted < 2,  # type: ignore[union-attr]
)
def sweep(world: World) -> None:
    assert world.process is not None
    world.process.sweep_wanted += 1


@happening("resend", 1, _runs)
def resend(world: World) -> None:
    assert world.process is not None
    view = list(world.server.view().items())
    if view and world.process.core.backfills.room():
        pk, values = view[world.draw(len(view))]
        world.resends += 1
        process = world.process
        process.core.backfills.hint(
            values["study_iuid"], pk, process.now(), insist=Insist.RESEND, seed=f"resend{world.resends}"
        )


@happening("pause", 1, lambda world: world.process is not None)
def pause(world: World) -> None:
    """Or on again."""
    assert world.process is not None
    order = world.process.core.parts.order
    order.paused = not order.paused


@happening("other settings", 1, lambda world: not world.index.conflicts)
def other_settings(world: World) -> None:
    """Read again by SIGHUP."""
    which = world.draw(3)
    old = world.policy
    world.policy = (
        replace(old, deletes=not old.deletes),
        replace(old, updates=not old.updates),
        replace(old, stable=not old.stable),
    )[which]
    world.sweep_needed = world.settings_changed = True
    if world.process is not None:
        world.process.core.use(world.policy)


@happening("parked retry", 2, lambda world: bool(world.disk.parked))
def parked_retry(world: World) -> None:
    for parked in world.disk.parked.values():
        parked.retry = True


@happening("disk full", 1, lambda world: not world.disk.full)
def disk_full(world: World) -> None:
    world.disk.full = True


@happening("disk free", 6, lambda world: world.disk.full)
def disk_free(world: World) -> None:
    world.disk.full = False


@happening("reload", 2, _runs)
def reload(world: World) -> None:
    """Other settings for the database: every session is opened anew."""
    assert world.process is not None
    world.process.source.reload()

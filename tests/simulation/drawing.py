"""What kind of world a seed is: its settings, its kinds of trouble, how long it is."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate

from tests.simulation.happening import HAPPENINGS
from tests.simulation.world import Config

__all__ = ["Drawn", "drawn"]

#: How often each actor goes on, against the happenings' weights.
_ACTOR_WEIGHT = {"stream": 20, "write": 18, "send": 20, "verify": 14, "audit": 10}
_ACTORS = ("write", "send", "verify", "patients", "stream", "audit", "once", "feed", "sweep", "retry")


@dataclass(frozen=True, slots=True)
class Drawn:
    """A world, how many steps it has, and what can be drawn for each: names, and the sums of their weights."""

    config: Config
    count: int
    names: list[str]
    weights: list[int]


def drawn(seed: int, rng: random.Random) -> Drawn:
    """``rng`` goes on with the steps."""
    config, count = config_of(rng)
    # Drawn apart, so that the others stay the courses that they were.
    apart = random.Random(-1 - seed)
    config = replace(config, max_patients=apart.choice((1, 2, 100, 100)))
    eager, slow = 1, ""
    kind = apart.random()
    for share, make, eager_then, slow_ones in KINDS:
        if kind < share:
            config, eager = make(config, apart), eager_then
            # Frozen, nearly, so that the others overtake it: what it has read is old when it goes on.
            slow = apart.choice(slow_ones)
            count = apart.choice((250, 400, 400) if config.replica else (50, 80, 150))
            break
        kind -= share
    allowed = {name for feature in config.features for name in ALL_FEATURES[feature]}
    names = [name for name in HAPPENINGS if name not in _OPTIONAL or name in allowed]
    # In each world something else is frequent, or slow.
    often = {name: HAPPENINGS[name][0] * rng.choice((1, 2, 2, 6)) for name in names}
    for name in (*allowed, *(("delete",) if "again" in config.features else ())):
        often[name] *= eager
    actors = (*_ACTORS, "report") if config.reports else _ACTORS
    quick = {name: _ACTOR_WEIGHT.get(name, 8) * rng.choice((1, 4, 4, 8)) // 2 for name in actors}
    for name in slow.split():
        if name in quick:
            quick[name] = 2
    names += quick
    return Drawn(config, count, names, list(accumulate([*often.values(), *quick.values()])))


def config_of(rng: random.Random) -> tuple[Config, int]:
    """A world's settings, and how many steps it has. Each world has some kinds of trouble, not all."""
    many = rng.choice((0.0, 0.1, 0.15, 0.25, 0.4))
    features = [name for name in FEATURES if rng.random() < many]
    if not features and rng.random() < 0.8:
        # Where a sweep is needed it hides much: most kinds of trouble are tried alone, or in pairs.
        features = rng.sample(list(FEATURES), rng.choice((1, 2)))
    features += [
        name for name in ("opaque", "odd answers", "kills") if name not in features and rng.random() < 0.25
    ]
    versions = rng.random() < 0.4
    updates = rng.random() < 0.85
    replica = "servers" in features or "failover" in features
    config = Config(
        stable=rng.random() < 0.15,
        updates=updates,
        deletes=rng.random() < 0.5,
        versions=versions,
        knows_keys=not versions and rng.random() < 0.3,
        conflicts=not versions and not updates and rng.random() < 0.3,
        concurrency=rng.choice((1, 2, 2, 4)),
        batch_size=rng.choice((1, 1, 1, 3)),
        max_studies=rng.choice((3, 6, 50, 50)),
        max_hints=rng.choice((5, 200, 200)),
        queue_limit=rng.choice((1, 3, 256, 256)),
        reading_limit=rng.choice((1, 3, 200)),
        page=rng.choice((1, 2, 5)),
        restarts="jobs" in features and rng.random() < 0.5,
        already_there=rng.choice((0, 0, 3)) if "jobs" in features else 0,
        replica=replica,
        follow_replica=replica and rng.random() < 0.4,
        chunk=rng.choice((1, 3, 50)),
        thorough=rng.random() < 0.4,
        features=tuple(features),
    )
    return config, rng.choice((150, 250, 400) if replica else (30, 80, 150, 250))


#: Kinds of trouble, and the happenings that belong to them.
FEATURES: dict[str, tuple[str, ...]] = {
    "kills": ("kill",),
    "stops": ("term",),
    "modes": (),
    "odd answers": (),
    "moods": ("mood", "odd study", "even study", "parked retry"),
    "patients": ("rename", "move", "lose patient"),
    "uids": ("other uid",),
    "late": (),
    "opaque": (),
    "log": ("rotate", "purge", "reset log", "log off"),
    "away": ("database away", "disk full"),
    "reloads": ("reload",),
    "failover": ("fail over",),
    "servers": ("switch",),
    "clock": ("clock jumps",),
    "outbox": ("prune", "truncate", "triggers off"),
    "jobs": ("ask for initial", "ask for sweep", "resend", "pause", "odd study"),
    "other writers": ("another writer",),
    "settings": ("other settings",),
}

# --- worlds of a kind of their own -----------------------------------------------------------------------

#: Their features, besides those.
ALL_FEATURES: dict[str, tuple[str, ...]] = {
    **FEATURES,
    "went back": ("index goes back", "health changes"),
    "stale": (),
    "again": (),
}
_OPTIONAL = {name for names in ALL_FEATURES.values() for name in names}


def _went_back(config: Config, rng: random.Random) -> Config:
    """The index takes reports, and is restored to an earlier moment."""
    others = [name for name in config.features if name != "settings"]
    return replace(
        config,
        reports=True,
        versions=True,
        updates=True,
        knows_keys=False,
        conflicts=False,
        features=("went back", *rng.sample(others, min(len(others), 2))),
    )


def _alone(config: Config, *features: str, **settings: object) -> Config:
    """With these features and no others."""
    alone = replace(config, features=features, replica=False, follow_replica=False)
    alone = replace(alone, restarts=False, already_there=0)
    return replace(alone, **settings)  # type: ignore[arg-type]


def _stale(config: Config, rng: random.Random) -> Config:
    """Triggers record what isn't true any more."""
    ends = rng.choice(((), (), ("kills",), ("stops",)))
    return _alone(config, "stale", *ends, updates=True, conflicts=False, stable=False)


def _clock(config: Config, rng: random.Random) -> Config:
    """The database's clock jumps, and the log doesn't show everything."""
    return _alone(config, "clock", "opaque")


def _lag(config: Config, rng: random.Random) -> Config:
    """A replica is followed that lags, and its log doesn't show everything."""
    return _alone(config, "opaque", *rng.choice(((), ("log",))), replica=True, follow_replica=True)


def _servers(config: Config, rng: random.Random) -> Config:
    """One server or the other answers."""
    follow = rng.random() < 0.5
    odd = rng.choice(((), ("odd answers",)))
    return _alone(config, "servers", *odd, replica=True, follow_replica=follow, short=True)


def _resumed(config: Config, rng: random.Random) -> Config:
    """`initial` is interrupted."""
    ends = rng.choice(((), ("kills",), ("stops",)))
    return _alone(config, "jobs", *ends, already_there=3, versions=False)


def _again(config: Config, rng: random.Random) -> Config:
    """What was deleted is stored again."""
    return _alone(config, "again", deletes=rng.random() < 0.3, stable=False, conflicts=False)


_ANY = ("", "", "verify", "write", "send", "feed", "audit", "patients", "report")

#: How many of all worlds, how they are made, how many times as often what belongs to them happens there, who may be slow.
KINDS: tuple[tuple[float, Callable[[Config, random.Random], Config], int, tuple[str, ...]], ...] = (
    (0.1, _went_back, 4, _ANY),
    (0.07, _stale, 1, _ANY),
    (0.05, _clock, 4, _ANY),
    (0.05, _lag, 2, _ANY),
    (0.08, _servers, 1, ("", "verify", "verify", "verify", "patients")),
    (0.08, _resumed, 4, _ANY),
    (0.05, _again, 4, ("", "write", "write", "send")),
)

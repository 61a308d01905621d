"""What can be wrong, how bad each is, and one case of it (pure; light, for `status` is asked often)."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

__all__ = ["Cause", "Level", "Problem", "as_sentence", "parked_problem", "worst_first"]


class Level(str, Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


class Cause(str, Enum):
    """What can be wrong, the worst first; docs/operations.md has a section for each."""

    CHECKPOINT = "checkpoint"
    NOT_RUNNING = "not_running"
    STUCK = "stuck"
    STORAGE = "storage"
    KEY_REFUSED = "key_refused"
    WRONG_ADDRESS = "wrong_address"
    REDIRECT = "redirect"
    CERTIFICATE = "certificate"
    NOT_THE_INDEX = "not_the_index"
    REJECTS_ALL = "rejects_all"
    REFUSED = "refused"
    SERVER_ID = "server_id"
    SCHEMA = "schema"
    DATABASE_AWAY = "database_away"
    INDEX_AWAY = "index_away"
    DEGRADED = "degraded"
    NOT_RECORDED = "not_recorded"
    OTHER_VERSION = "other_version"
    CHANGES_HELD = "changes_held"
    OTHER_WRITER = "other_writer"
    VERIFICATION = "verification"
    STARTING = "starting"
    INDEX_LOST = "index_lost"
    INITIAL_UNFINISHED = "initial_unfinished"
    POSITION_LOST = "position_lost"
    PAUSED = "paused"
    QUIET = "quiet"
    OPEN_TRANSACTION = "open_transaction"
    PARKED = "parked"

    @property
    def is_held(self) -> bool:
        """Whether the central index refuses everything, so that somebody has to mend something."""
        return self in _HELD

    @property
    def is_offline(self) -> bool:
        """Whether only `status` can say so: a `run` that could isn't there."""
        return self in (Cause.NOT_RUNNING, Cause.CHECKPOINT)

    @property
    def level(self) -> Level:
        """A warning doesn't make the service unhealthy."""
        return Level.WARNING if self in _WARNINGS else Level.FAILED


_WARNINGS = frozenset(
    {
        Cause.PARKED,
        Cause.INDEX_LOST,
        Cause.INITIAL_UNFINISHED,
        Cause.POSITION_LOST,
        Cause.OPEN_TRANSACTION,
        Cause.PAUSED,
        Cause.QUIET,
    }
)
_HELD = frozenset(
    {
        Cause.KEY_REFUSED,
        Cause.WRONG_ADDRESS,
        Cause.REDIRECT,
        Cause.CERTIFICATE,
        Cause.NOT_THE_INDEX,
        Cause.REJECTS_ALL,
        Cause.REFUSED,
    }
)


class Problem(NamedTuple):
    """One thing that is wrong: ``since`` is in seconds since 1970, ``message`` one sentence with the remedy."""

    cause: Cause
    since: float | None
    message: str


_ORDER = {cause: number for number, cause in enumerate(Cause)}


def worst_first(problems: Iterable[Problem]) -> list[Problem]:
    """Sorted."""
    return sorted(problems, key=lambda problem: _ORDER[problem.cause])


def parked_problem(count: int, since: float | None) -> Problem:
    """Studies are parked."""
    studies = "1 study is" if count == 1 else f"{count:,} studies are"
    message = (
        f"{studies} parked, rejected by the central index: see `cdc-indexer parked list`, mend what is wrong, "
        "then `cdc-indexer parked retry` or `cdc-indexer parked discard`."
    )
    return Problem(Cause.PARKED, since, message)


def as_sentence(text: str) -> str:
    """Begins with a capital and ends with a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".") if text else text

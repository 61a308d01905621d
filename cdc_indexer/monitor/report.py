"""The report: what `status` and the status page show, as one JSON-ready object without any patient data.

A running service writes it into its state directory; without one, `status` makes it from the files and the database.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from cdc_indexer.monitor.causes import Level, Problem
from cdc_indexer.source.errors import address_of

if TYPE_CHECKING:
    from cdc_indexer.model.settings import Settings

__all__ = ["FILE_NAME", "PASS_COUNTS", "Report", "iso", "moment"]

#: What a comparison of archive and index counts.
PASS_COUNTS = ("compared", "equal", "missing", "stale", "extra", "kept", "healed")

#: In the state directory.
FILE_NAME = "status.json"

MINUTES = 60


class Report(NamedTuple):
    """How it stands at ``time``. Times are UTC, ISO 8601; None stands for what isn't known.

    ``running``: a `run` is active; ``service``: it is, or the last one was, one that stays. ``problems`` are {cause, level,
    since, message}, the worst first; ``held`` is the one of them because of which nothing is sent until somebody mends it.
    ``delivered``, ``retried``: since the start of that `run`. ``parked`` are there now; ``parked_reasons`` are {reason,
    count}. ``at_index``: studies that the index has accepted, over all starts. ``database``: its name and where it is.
    ``last_hour``: studies delivered in each of the last 60 minutes, the oldest first. ``last_pass``: what the last
    comparison of archive and index came to, as `reconcile --json` says it; None: there was none.
    """

    version: str
    center: str
    time: str
    running: bool
    service: bool
    healthy: bool
    state: str
    message: str
    problems: list[dict[str, Any]]
    connected: bool | None = None
    caught_up: bool | None = None
    server: str | None = None
    position: str | None = None
    settled_until: str | None = None
    bytes_behind: int | None = None
    seconds_behind: float | None = None
    delivered: int | None = None
    retried: int | None = None
    queued: int | None = None
    waiting: int | None = None
    parked: int | None = None
    parked_reasons: list[dict[str, Any]] | None = None
    held: dict[str, Any] | None = None
    last_error: dict[str, Any] | None = None
    last_delivery_at: str | None = None
    checkpoint_at: str | None = None
    started_at: str | None = None
    pid: int | None = None
    last_hour: list[int] | None = None
    database: str | None = None
    at_index: int | None = None
    last_pass: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, in this order."""
        return self._asdict()

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Report | None:
        """What ``to_json`` gave; None when it isn't that (another version's, say)."""
        try:
            return cls(**{name: value for name, value in content.items() if name in cls._fields})
        except TypeError:
            return None


def database_of(settings: Settings) -> str:
    """The archive's database as people know it: its name, and where it is."""
    return f"{settings.database.name} ({address_of(settings.database)})"


def judged(problems: Sequence[Problem], fine: str) -> dict[str, Any]:
    """The fields of a Report that come from what is wrong; ``fine`` is the sentence when nothing is."""
    shown = [
        {
            "cause": problem.cause.value,
            "level": problem.cause.level.value,
            "since": iso(problem.since),
            "message": problem.message,
        }
        for problem in problems
    ]
    levels = {problem.cause.level for problem in problems}
    level = next((level for level in (Level.FAILED, Level.WARNING) if level in levels), Level.OK)
    held = next((one for problem, one in zip(problems, shown, strict=True) if problem.cause.is_held), None)
    return {
        "healthy": level is not Level.FAILED,
        "state": level.value,
        "message": problems[0].message if problems else fine,
        "problems": shown,
        "held": held,
    }


def iso(seconds: float | None) -> str | None:
    """Seconds since 1970 as ISO 8601."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")


def moment(text: str | None) -> datetime | None:
    """What ``iso`` wrote; None for anything else."""
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None

"""What somebody is told of problems: one alert."""

from __future__ import annotations

from typing import Any, NamedTuple

from cdc_indexer.monitor.causes import Level, Problem
from cdc_indexer.monitor.report import iso

__all__ = ["Alert"]


class Alert(NamedTuple):
    """What is told: ``problems`` last, ``over`` have ended. ``id`` is the same however often it is tried."""

    id: str
    at: float
    center: str
    problems: tuple[Problem, ...]
    over: tuple[Problem, ...]

    @property
    def kind(self) -> str:
        """As the webhook's ``type`` ends."""
        return "problem" if self.problems else "recovered"

    @property
    def state(self) -> str:
        """How bad it is now."""
        levels = {problem.cause.level for problem in self.problems}
        return next(
            (level.value for level in (Level.FAILED, Level.WARNING) if level in levels), Level.OK.value
        )

    def to_json(self) -> dict[str, Any]:
        """For the webhook."""
        return {
            "type": f"cdc_indexer.{self.kind}",
            "timestamp": iso(self.at),
            "data": {
                "center": self.center,
                "state": self.state,
                "problems": [_shown(problem) for problem in self.problems],
                "over": [_shown(problem) for problem in self.over],
            },
        }


def _shown(problem: Problem) -> dict[str, Any]:
    return {
        "cause": problem.cause.value,
        "level": problem.cause.level.value,
        "since": iso(problem.since),
        "message": problem.message,
    }

"""How the region's centres stand: reports, arrivals and counts become one judgement for each (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from central_index.model import Arrivals, CenterReport
from central_index.shown import moment

#: A centre reports every minute.
SILENT_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Center:
    """One line of the page. ``state``: silent, failed, differing, warning, ok, or unknown for one that sends no reports.

    So is one without a key, which can't: nobody is to be called for it.
    """

    center: str
    state: str
    problems: list[str]
    reported_at: str | None
    changed_at: str | None
    behind_seconds: float | None
    waiting: int | None
    parked: int | None
    last_delivery: str | None
    last_pass: dict[str, Any] | None
    program: str | None
    studies: int
    today: int
    week_before: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


_WORST_FIRST = ("failed", "silent", "differing", "warning", "unknown", "ok")


def overview(
    known: Iterable[str],
    reports: Iterable[CenterReport],
    counts: Mapping[str, int],
    arrivals: Mapping[str, Arrivals],
    newest: Mapping[str, int],
    now: float,
) -> list[Center]:
    """All centres that have a key, a report or a study, those that need somebody first. ``newest``: highest versions."""
    by_center, expected = {report.center: report for report in reports}, set(known)
    found = [
        _center(
            name,
            _state(by_center.get(name), now) if name in expected else "unknown",
            by_center.get(name),
            counts.get(name, 0),
            arrivals.get(name),
            newest.get(name),
            now,
        )
        for name in {*expected, *by_center, *counts}
    ]
    return sorted(found, key=lambda one: (_WORST_FIRST.index(one.state), one.center))


def _center(
    name: str,
    state: str,
    report: CenterReport | None,
    studies: int,
    arrivals: Arrivals | None,
    newest: int | None,
    now: float,
) -> Center:
    content: Mapping[str, Any] = report.content if report is not None else {}
    return Center(
        center=name,
        state=state,
        problems=content.get("problems", []),
        reported_at=moment(report.received_at) if report is not None else None,
        # A version is a moment; one that is far ahead is none.
        changed_at=moment(newest / 1e6) if newest is not None and newest / 1e6 < now + 86_400 else None,
        behind_seconds=content.get("behind_seconds"),
        waiting=content.get("waiting"),
        parked=content.get("parked"),
        last_delivery=content.get("last_delivery"),
        last_pass=content.get("last_pass"),
        program=content.get("program"),
        studies=studies,
        today=arrivals.today if arrivals is not None else 0,
        week_before=arrivals.before if arrivals is not None else 0,
    )


def _state(report: CenterReport | None, now: float) -> str:
    if report is None:
        return "unknown"
    if now - report.received_at > SILENT_SECONDS:
        return "silent"
    state: str = report.content["state"]
    if state == "failed":
        return state
    last_pass = report.content.get("last_pass") or {}
    if any(last_pass.get(kind) for kind in ("missing", "stale", "extra")):
        return "differing"
    return state


def periods(now: float) -> list[tuple[float, float]]:
    """Today so far, by the index's own time zone, and the same a week before."""
    moment_now = datetime.fromtimestamp(now).astimezone()
    midnight = moment_now.replace(hour=0, minute=0, second=0, microsecond=0)
    week = timedelta(days=7)
    return [(midnight.timestamp(), now), ((midnight - week).timestamp(), (moment_now - week).timestamp())]

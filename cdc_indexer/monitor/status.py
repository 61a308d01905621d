"""The command `status`: how a running service says it stands, or else what files and database show."""

from __future__ import annotations

import sys
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from cdc_indexer.model.moment import for_people
from cdc_indexer.monitor.causes import Cause, Level
from cdc_indexer.monitor.language import current, say
from cdc_indexer.monitor.report import FILE_NAME, Report, moment
from cdc_indexer.monitor.terminal import printable
from cdc_indexer.monitor.texts import ago, number, passed, size, span
from cdc_indexer.state import requests as handover
from cdc_indexer.state.lock import held_by

if TYPE_CHECKING:
    from cdc_indexer.model.settings import Settings

__all__ = ["lines", "report", "show"]

#: A running service renews its status.json every two seconds.
STALE_SECONDS = 30.0

#: A service that has just taken the lock writes its status.json within this time.
_START_SECONDS = 3.0


def report(settings: Settings) -> Report:
    """How it stands; works whether or not a `run` is active. Raises StorageError when this account may not look."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        holder = held_by(settings.state_dir)
        last = _last(settings)
        if holder is None or holder[0] == "initial":
            return _offline(settings, last, holder)
        if last is not None and last.running and last.pid == holder[1]:
            return _current(last)
        if time.monotonic() > deadline:
            return _offline(settings, last, holder)
        time.sleep(0.1)


def _last(settings: Settings) -> Report | None:
    content = handover.read(settings.state_dir, FILE_NAME)
    return Report.from_json(content) if content is not None else None


def _offline(settings: Settings, last: Report | None, holder: tuple[str, int] | None) -> Report:
    from cdc_indexer.monitor.offline import Offline  # noqa: PLC0415 - the drivers take a while

    return Offline(settings, last, holder).report()


def _current(last: Report) -> Report:
    """What the running service wrote, unless it has ceased to."""
    written = moment(last.time)
    age = (datetime.now(timezone.utc) - written).total_seconds() if written is not None else STALE_SECONDS
    if age < STALE_SECONDS:
        return last
    message = (
        f"The running service has said nothing for {span(age)}: either the state directory can't be written "
        "(a full disk, its rights), or the service is stuck and must be restarted."
    )
    problems = [
        {"cause": Cause.STUCK.value, "level": Level.FAILED.value, "since": last.time, "message": message}
    ]
    content = {
        **last.to_json(),
        "healthy": False,
        "state": "failed",
        "message": message,
        "problems": problems,
    }
    return Report.from_json(content) or last


def lines(shown: Report) -> list[tuple[str, str]]:
    """For people: (name, value), what isn't known left out."""
    now = datetime.now(timezone.utc)

    def when(text: str | None) -> str:
        found = moment(text)
        if found is None or found.year < 1971:
            return ""
        return f"{for_people(found)}, {ago(found, now, current())}"

    def count(value: int | None) -> str:
        return "" if value is None else number(value, current())

    error = shown.last_error
    reasons = "; ".join(f"{one['count']} × {say(one['reason'])}" for one in shown.parked_reasons or [])
    pairs = [
        ("held", say(_held(shown))),
        ("position", shown.position or ""),
        ("bytes behind", "" if shown.bytes_behind is None else size(shown.bytes_behind, current())),
        (
            "seconds behind",
            "" if shown.seconds_behind is None else number(shown.seconds_behind, current(), 1),
        ),
        (
            "delivered",
            say(f"{count(shown.delivered)} since {when(shown.started_at)}")
            if shown.delivered
            else count(shown.delivered),
        ),
        ("at the index", count(shown.at_index)),
        ("last delivery", when(shown.last_delivery_at)),
        ("queued", count(shown.queued)),
        (
            "waiting",
            say(f"{waiting} (until they are quiet, or being sent)")
            if (waiting := count(shown.waiting)) not in ("", "0")
            else waiting,
        ),
        ("parked", f"{count(shown.parked)}{f': {reasons}' if reasons else ''}"),
        (
            "last comparison",
            f"{when(last.get('at'))}: {passed(last, current())}" if (last := shown.last_pass) else "",
        ),
        ("last error", f"{say(error['message'])} ({when(error['time'])})" if error else say("none")),
        (
            "complete until",
            say(f"{settled}; ten minutes back on purpose") if (settled := when(shown.settled_until)) else "",
        ),
        ("checkpoint", when(shown.checkpoint_at)),
        ("database", shown.database or ""),
        ("centre", shown.center),
        ("version", shown.version),
    ]
    return [(say(name), value) for name, value in pairs if value]


#: Why nothing is sent though nobody has to mend anything.
_WAITS = {Cause.PAUSED.value: "paused", Cause.INDEX_AWAY.value: "no, but the central index is away"}


def _held(shown: Report) -> str:
    if shown.held:
        return str(shown.held["message"])
    return next((_WAITS[one["cause"]] for one in shown.problems if one["cause"] in _WAITS), "no")


def show(shown: Report) -> None:
    """For people: in colours on a terminal, else a line each."""
    headline = say("healthy" if shown.healthy else "not healthy")
    messages = [say(one["message"]) for one in shown.problems] or [say(shown.message)]
    if not sys.stdout.isatty():
        for name, value in [
            (say("state"), headline),
            *(("", message) for message in messages),
            *lines(shown),
        ]:
            sys.stdout.write(printable(f"{name:<15} {value}") + "\n")
        # Here, where it can be handled: whoever reads may have gone.
        sys.stdout.flush()
        return
    from rich.console import Console  # noqa: PLC0415 - slow to import
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    colour = {"ok": "green", "warning": "yellow"}.get(shown.state, "red")
    console = Console(highlight=False)
    console.print(Text(headline, style=f"bold {colour}"))
    for message in messages:
        console.print(Text(printable(message)))
    table = Table.grid(padding=(0, 2))
    for name, value in lines(shown):
        table.add_row(Text(name, style="dim"), Text(printable(value)))
    console.print()
    console.print(table)

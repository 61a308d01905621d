"""How far `initial` is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from cdc_indexer.flow.backfill import Counted

__all__ = ["Progressbar"]

_LINE_SECONDS = 10.0
_RATE_SECONDS = 10.0

log = structlog.get_logger("cdc_indexer")


class Progressbar:
    """Use as a context manager and call ``show`` often. How far it is goes by study_pk: counting would be a table scan."""

    def __init__(
        self,
        command: str = "initial",
        *,
        terminal: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command = command
        #: What ``Counted.sent`` and ``.skipped`` are.
        self._words = ("compared", "healed") if command == "reconcile" else ("sent", "not_needed")
        self._clock = clock
        self._terminal = sys.stderr.isatty() if terminal is None else terminal
        self._bar: tuple[Progress, TaskID] | None = None
        self._began = clock()
        self._next_line = self._began + _LINE_SECONDS
        # (moment, studies sent, study_pk): the rate is that of the last seconds.
        self._marks: deque[tuple[float, int, int]] = deque()

    def __enter__(self) -> Progressbar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar[0].stop()

    def show(self, counted: Counted, done: bool) -> None:
        """Shows how far it came; ``done`` once at the end."""
        now = self._clock()
        self._marks.append((now, counted.sent, counted.at_pk))
        while now - self._marks[0][0] > _RATE_SECONDS:
            self._marks.popleft()
        # At its end, that of the whole: what came last tells nothing then.
        since, sent, at_pk = (self._began, 0, 0) if done else self._marks[0]
        seconds = now - since
        rate = (counted.sent - sent) / seconds if seconds else 0.0
        speed = (counted.at_pk - at_pk) / seconds if seconds else 0.0
        left = (counted.last_pk - counted.at_pk) / speed if speed > 0 else None
        if self._terminal:
            self._show_bar(counted, rate, left, done)
        elif done or now >= self._next_line:
            self._next_line = now + _LINE_SECONDS
            self._write_line(counted, rate, left, done)

    def _show_bar(self, counted: Counted, rate: float, left: float | None, done: bool) -> None:
        if self._bar is None:
            self._bar = _new_bar()
        progress, task = self._bar
        total = counted.last_pk or None
        progress.update(
            task,
            total=total,
            completed=(total or 1) if done else counted.at_pk,
            sent=f"{counted.sent:,} {self._words[0]}",
            parked=f"{counted.parked:,} parked" if counted.parked else "",
            rate=f"{rate:,.0f}/s",
            left="" if done or left is None else f"{_clock_time(left)} left",
        )

    def _write_line(self, counted: Counted, rate: float, left: float | None, done: bool) -> None:
        count, rest = self._words
        fields: dict[str, Any] = {count: counted.sent, "parked": counted.parked, "per_second": round(rate)}
        if counted.skipped:
            fields[rest] = counted.skipped
        if not done and left is not None:
            fields["left"] = _clock_time(left)
        log.info(f"{self._command} done" if done else self._command, **fields)


def _new_bar() -> tuple[Progress, TaskID]:
    # Rich is for terminals only; it takes 60 ms and 8 MB to import.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415

    columns = [TextColumn("{task.fields[" + name + "]}") for name in ("sent", "rate", "left", "parked")]
    progress = Progress(
        BarColumn(), TextColumn("{task.percentage:>3.0f} %"), *columns, console=Console(stderr=True)
    )
    task = progress.add_task("", total=None, sent="", rate="", left="", parked="")
    progress.start()
    return progress, task


def _clock_time(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, rest = divmod(round(min(seconds, 3_599_999)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"

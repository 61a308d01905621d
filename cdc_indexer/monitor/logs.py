"""The log: one line for each event that matters, free of secrets and patients, never the reason for a failure.

:func:`configure` is called once by the command; everybody else asks structlog for a logger and says what happened.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from cdc_indexer.model.errors import IndexerError
from cdc_indexer.model.lean import later, without
from cdc_indexer.model.moment import for_people

# rich: for tracebacks, which we never print. asyncio: for loggers that are awaited, which we have none of.
with without("rich"), later("asyncio"):
    import structlog
    from structlog.typing import EventDict, WrappedLogger

if TYPE_CHECKING:
    from cdc_indexer.model.settings import LogSettings

__all__ = ["Redact", "Repeats", "configure", "describe"]

REMOVED = "[removed]"

#: Names under which a secret or a patient could come, whatever the case; a line never shows their values.
_PRIVATE = frozenset(
    (
        "key",
        "api_key",
        "x_api_key",
        "x-api-key",
        "authorization",
        "password",
        "passwd",
        "secret",
        "token",
        "body",
        "answer",
        "document",
        "values",
        "row",
        "patient",
        "patient_id",
        "patient_name",
        "patient_pk",
        "pat_id",
        "pat_name",
        "accession_no",
        "accession_number",
        "study_description",
    )
)

#: The same line so many times in so many seconds is enough; then one each period, with the number left out.
REPEATS_SHOWN = 10
REPEATS_SECONDS = 60.0
_REPEATS_KEPT = 1000

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

#: Libraries whose own lines would repeat settings (a password among them) or addresses, and tell nothing new.
_SILENCED = ("pymysqlreplication", "urllib3", "requests", "pymysql")


class Stream(Protocol):
    """Where lines go."""

    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...
    def isatty(self) -> bool: ...


def configure(
    settings: LogSettings,
    stream: Stream,
    *,
    secrets: Collection[str] = (),
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Sends every line to ``stream``: JSON, or for people if it is a terminal (or as ``settings.format`` says).

    ``secrets`` are removed wherever they would stand.
    """
    debug = settings.level == "debug"
    console = settings.format == "console" or (settings.format == "auto" and stream.isatty())
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        _LocalTime() if console else structlog.processors.TimeStamper(fmt="iso", utc=True),
        _Exceptions(traceback=debug),
        Redact(secrets),
        Repeats(clock),
    ]
    if console:
        colors = stream.isatty() and "NO_COLOR" not in os.environ
        processors.append(structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=0, sort_keys=False))
    else:
        processors += [_time_first, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[settings.level]),
        logger_factory=lambda *_: _Line(stream),
        cache_logger_on_first_use=False,
    )
    _take_over_libraries()


class _Line:
    """Writes lines. What can't be written (full disk, closed pipe) is lost: the studies are more important."""

    _lock = threading.Lock()

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        try:
            with self._lock:
                encoding = getattr(self._stream, "encoding", None) or "utf-8"
                self._stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
                self._stream.flush()
        except (OSError, ValueError):
            pass

    debug = info = warning = error = critical = msg


# --- what is kept out ------------------------------------------------------------------------------------


class Redact:
    """A processor that removes private fields by their name, and secrets wherever they stand in a text."""

    def __init__(self, secrets: Collection[str] = ()) -> None:
        # A short secret could be a part of any word.
        patterns = [
            re.escape(secret) if len(secret) >= 6 else rf"(?<!\w){re.escape(secret)}(?!\w)"
            for secret in sorted(secrets, key=len, reverse=True)
            if secret
        ]
        self._secrets = re.compile("|".join(patterns)) if patterns else None

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {name: self._field(name, value) for name, value in event.items()}

    def hide(self, text: str) -> str:
        """The text without the secrets."""
        return text if self._secrets is None else self._secrets.sub(REMOVED, text)

    def _field(self, name: object, value: object) -> object:
        return REMOVED if str(name).lower() in _PRIVATE else self._clean(value)

    def _clean(self, value: object) -> object:
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, bytes):
            return f"[{len(value)} bytes]"
        if isinstance(value, Mapping):
            return {str(name): self._field(name, inner) for name, inner in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self._clean(inner) for inner in value]
        text = self.hide(str(value))
        # A line end or an escape sequence could forge a line or move the terminal's cursor.
        return (
            text
            if text.isprintable()
            else "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
        )


def describe(error: BaseException) -> str:
    """An unexpected error in one line: its type and where it came from.

    Not its text, which may quote the value that it stumbled over; our own errors are written to be read.
    """
    if isinstance(error, IndexerError):
        return str(error)
    why = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
    frames = _frames(error.__traceback__)
    return f"{type(error).__name__}{why} at {frames[-1] if frames else 'an unknown place'}"


def _frames(traceback: TracebackType | None) -> list[str]:
    """``module:line`` of each frame, the innermost last."""
    frames = []
    while traceback is not None:
        name = (
            traceback.tb_frame.f_globals.get("__name__") or Path(traceback.tb_frame.f_code.co_filename).stem
        )
        frames.append(f"{name}:{traceback.tb_lineno}")
        traceback = traceback.tb_next
    return frames


class _Exceptions:
    """A processor that turns ``exc_info`` into one line; with ``traceback`` also into the frames, without values."""

    def __init__(self, *, traceback: bool) -> None:
        self._traceback = traceback

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        given = event.pop("exc_info", None)
        if given is True:
            given = sys.exc_info()[1]
        elif isinstance(given, tuple):
            given = given[1]
        if isinstance(given, BaseException):
            event["error"] = describe(given)
            if self._traceback:
                event["traceback"] = _frames(given.__traceback__)
        return event


# --- repeating lines -------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Seen:
    since: float
    shown: int
    left_out: int


class Repeats:
    """A processor that drops a line that keeps coming; the next that is shown says how many were left out.

    Lines are the same when their level, event and reason are, so that studies rejected by the thousand count as one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[tuple[object, ...], _Seen] = {}

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        what = (event.get("level"), event.get("event"), str(event.get("reason")))
        now = self._clock()
        with self._lock:
            seen = self._seen.get(what)
            if seen is None or now - seen.since >= REPEATS_SECONDS:
                shown = 1 if seen is None or not seen.left_out else REPEATS_SHOWN
                left_out = seen.left_out if seen else 0
                if len(self._seen) >= _REPEATS_KEPT and seen is None:
                    self._seen.clear()
                self._seen[what] = _Seen(now, shown, 0)
            elif seen.shown < REPEATS_SHOWN:
                seen.shown += 1
                return event
            else:
                seen.left_out += 1
                raise structlog.DropEvent
        if left_out:
            event["left_out"] = left_out
        return event


class _LocalTime:
    """As the clock on the wall shows it, beside what `status` says in the same way."""

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["timestamp"] = for_people(datetime.now(timezone.utc))
        return event


def _time_first(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    first = {name: event.pop(name) for name in ("timestamp", "level", "event") if name in event}
    return {**first, **event}


# --- other people's lines --------------------------------------------------------------------------------


def _take_over_libraries() -> None:
    """Nothing that a library says reaches the output except through us."""
    root = logging.getLogger()
    root.handlers[:] = [_FromLibraries(logging.WARNING)]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
    for name in _SILENCED:
        logger = logging.getLogger(name)
        logger.handlers[:] = [logging.NullHandler()]
        logger.propagate = False


class _FromLibraries(logging.Handler):
    """Says that a library complained, and where, without its text: that may hold anything."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger("cdc_indexer").warning(
            "a library complains", library=record.name, at=f"{record.module}:{record.lineno}"
        )

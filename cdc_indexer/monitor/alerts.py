"""Tells somebody of a problem that lasts, and that it is over: by email and by a webhook, without any patient data.

A blink tells nobody: a problem is told once it has lasted for five minutes, and is over once it hasn't come back for one.
What was told is kept in the state directory, so that a restart neither repeats it nor forgets to say that it is over.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from cdc_indexer.model import failpoints
from cdc_indexer.model.errors import StorageError
from cdc_indexer.monitor.alert import Alert
from cdc_indexer.monitor.causes import Cause, Problem
from cdc_indexer.state import requests as handover

if TYPE_CHECKING:
    from cdc_indexer.model.settings import Settings

__all__ = ["FILE_NAME", "Alerts", "Lasting", "channels"]

log = structlog.get_logger("cdc_indexer")

#: In the state directory.
FILE_NAME = "alerts.json"

#: A problem has to last so long before it is told, and to be away so long before it is over.
_LASTING_SECONDS = 300.0
_OVER_SECONDS = 60.0

#: After so long what couldn't be sent is tried again; it doubles up to the cap.
_AGAIN_SECONDS = 30.0
_AGAIN_CAP_SECONDS = 1800.0

#: So many that couldn't be sent are kept for each channel; the oldest are dropped.
_KEPT = 20

#: What somebody has done himself, or what passes by itself, is no news.
_NOT_TOLD = frozenset({Cause.PAUSED, Cause.STARTING, Cause.POSITION_LOST})


class Lasting:
    """What lasts, and what of it was told (passive). ``told`` by cause."""

    def __init__(self, told: dict[Cause, Problem], lasting_seconds: float, over_seconds: float) -> None:
        self.told = told
        self._lasting_seconds = lasting_seconds
        self._over_seconds = over_seconds
        #: When each was seen first without a break, and when each of those that were told was seen last.
        self._first: dict[Cause, float] = {}
        self._last: dict[Cause, float] = {}

    def look(
        self, problems: Sequence[Problem], now: float
    ) -> tuple[tuple[Problem, ...], tuple[Problem, ...]] | None:
        """``now`` by a clock that doesn't jump. What lasts and what is over, if there is news in it."""
        there = {problem.cause: problem for problem in problems if problem.cause not in _NOT_TOLD}
        self._first = {cause: self._first.get(cause, now) for cause in there}
        for cause in self.told:
            if cause in there or cause not in self._last:
                self._last[cause] = now
        new = {
            cause
            for cause, first in self._first.items()
            if cause not in self.told and now - first >= self._lasting_seconds
        }
        over = {
            cause
            for cause in self.told
            if now - self._last[cause] >= self._over_seconds and cause not in there
        }
        if not new and not over:
            return None
        ended = tuple(self.told.pop(cause) for cause in list(self.told) if cause in over)
        for cause in new:
            self.told[cause] = there[cause]
            self._last[cause] = now
        # What is told and not over, as it is now; a blink of it doesn't leave it out.
        lasts = tuple(there.get(cause, problem) for cause, problem in self.told.items())
        return lasts, ended


#: Sends one alert; raises OSError (or what smtplib and requests make of it) when it can't be sent now.
Channel = Callable[[Alert], None]


class Alerts:
    """``look`` is called every second; a thread of its own sends, so that nobody waits for a mail server."""

    def __init__(self, settings: Settings, channels: dict[str, Channel]) -> None:
        self._settings = settings
        self._channels = channels
        self._lasting = Lasting(
            _recall(settings),
            failpoints.seconds("alerts", _LASTING_SECONDS),
            failpoints.seconds("alerts_over", _OVER_SECONDS),
        )
        self._waiting: dict[str, deque[Alert]] = {name: deque(maxlen=_KEPT) for name in channels}
        self._again: dict[str, tuple[float, float]] = {}
        self._woken = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="alerts", daemon=True)
        self._thread.start()

    def look(self, problems: Sequence[Problem]) -> None:
        """What is wrong now, also when that is nothing."""
        news = self._lasting.look(problems, time.monotonic())
        if news is None:
            return
        alert = Alert(str(uuid.uuid4()), time.time(), self._settings.center, *news)
        _remember(self._settings, self._lasting.told)
        with self._woken:
            for waiting in self._waiting.values():
                waiting.append(alert)
            self._woken.notify_all()

    def close(self) -> None:
        """Ends the thread; what couldn't be sent so far is given up."""
        with self._woken:
            self._ended = True
            self._woken.notify_all()
        # A server that doesn't answer isn't waited for.
        self._thread.join(1.0)

    def _work(self) -> None:
        while True:
            with self._woken:
                now = time.monotonic()
                due = [
                    (name, waiting[0])
                    for name, waiting in self._waiting.items()
                    if waiting and self._again.get(name, (0.0, 0.0))[0] <= now
                ]
                if not due:
                    if self._ended:
                        return
                    self._woken.wait(1.0)
                    continue
            for name, alert in due:
                self._send(name, alert)

    def _send(self, name: str, alert: Alert) -> None:
        try:
            self._channels[name](alert)
        except Exception as error:  # nothing that only tells may end the service
            pause = min(self._again.get(name, (0.0, _AGAIN_SECONDS / 2))[1] * 2, _AGAIN_CAP_SECONDS)
            if name not in self._again:
                # Its type only: a server's text may repeat what it was sent.
                log.warning("an alert can't be sent", channel=name, reason=_why(error))
            self._again[name] = (time.monotonic() + pause, pause)
            return
        if self._again.pop(name, None) is not None:
            log.info("alerts can be sent again", channel=name)
        with self._woken:
            if self._waiting[name] and self._waiting[name][0] is alert:
                self._waiting[name].popleft()


def _why(error: Exception) -> str:
    """Status and kind of an error, never a server's text."""
    status = getattr(error, "smtp_code", None) or getattr(
        getattr(error, "response", None), "status_code", None
    )
    return f"{type(error).__name__}{f' ({status})' if status else ''}: see alerts in config.json"


def channels(settings: Settings) -> dict[str, Channel]:
    """Those that are set."""
    alerts = settings.alerts
    if alerts.email is None and alerts.webhook is None:
        return {}
    from cdc_indexer.monitor import messengers  # noqa: PLC0415 - most have none

    found: dict[str, Channel] = {}
    if alerts.email is not None:
        email = alerts.email
        found["email"] = lambda alert: messengers.send_email(email, alert)
    if alerts.webhook is not None:
        url, secret = alerts.webhook, alerts.webhook_secret
        found["webhook"] = lambda alert: messengers.send_webhook(url, secret, alert)
    return found


def _recall(settings: Settings) -> dict[Cause, Problem]:
    """What an earlier process has told; nothing where that can't be read."""
    told: dict[Cause, Problem] = {}
    try:
        content = handover.read(settings.state_dir, FILE_NAME) or {}
        for name, one in content.get("told", {}).items():
            cause = Cause(name)
            told[cause] = Problem(cause, float(one["since"]), str(one["message"]))
    except (StorageError, ValueError, TypeError, KeyError, AttributeError):
        return {}
    return told


def _remember(settings: Settings, told: dict[Cause, Problem]) -> None:
    content = {
        "told": {
            cause.value: {"since": problem.since or 0.0, "message": problem.message}
            for cause, problem in told.items()
        }
    }
    # That it can't be written is said already; after a restart it would be told again.
    with suppress(StorageError):
        handover.write(settings.state_dir, FILE_NAME, content)

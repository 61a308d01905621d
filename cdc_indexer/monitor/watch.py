"""The observer of `run`: counts, judges, writes status.json, and opens the status page."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import structlog

from cdc_indexer import __version__
from cdc_indexer.flow.observer import Condition, Observer, Source
from cdc_indexer.model.errors import StorageError
from cdc_indexer.monitor.alerts import Alerts, channels
from cdc_indexer.monitor.causes import as_sentence
from cdc_indexer.monitor.health import Health
from cdc_indexer.monitor.logs import describe
from cdc_indexer.monitor.metrics import Metrics
from cdc_indexer.monitor.report import FILE_NAME, MINUTES, Report, database_of, iso, judged
from cdc_indexer.state import requests as handover

if TYPE_CHECKING:
    from cdc_indexer.flow.observer import Sample
    from cdc_indexer.flow.order import Delivery
    from cdc_indexer.flow.verdict import Gate
    from cdc_indexer.model.outcome import Outcome, Refusal
    from cdc_indexer.model.settings import Settings
    from cdc_indexer.monitor.page import Page

__all__ = ["Watch"]

log = structlog.get_logger("cdc_indexer")

#: status.json is written this often, and at once when something begins or ceases to be wrong.
_WRITE_SECONDS = 2.0

#: An archive that is this far behind is said to be catching up.
BEHIND_SECONDS = 60.0


class _Hour:
    """Deliveries in each of the last 60 minutes; the caller holds the lock."""

    def __init__(self) -> None:
        self._minutes: deque[tuple[int, int]] = deque(maxlen=MINUTES)

    def add(self, seconds: float) -> None:
        minute = int(seconds // 60)
        if self._minutes and self._minutes[-1][0] == minute:
            self._minutes[-1] = (minute, self._minutes[-1][1] + 1)
        else:
            self._minutes.append((minute, 1))

    def counts(self, seconds: float) -> list[int]:
        last = int(seconds // 60)
        found = dict(self._minutes)
        return [found.get(minute, 0) for minute in range(last - MINUTES + 1, last + 1)]


class Watch(Observer):
    """See the module. ``service``: a `run` that stays, which has a status page where ``monitor.listen`` wants it."""

    def __init__(self, *, service: bool = True) -> None:
        self.metrics = Metrics()
        self.health = Health()
        self._service = service
        self._settings: Settings | None = None
        self._page: Page | None = None
        self._sample: Sample | None = None
        self._started_at = time.time()
        self._running = True
        self._hour = _Hour()
        self._last_pass: dict[str, Any] | None = None
        self._lock = threading.Lock()
        self._written = (-_WRITE_SECONDS, -1)
        self._alerts: Alerts | None = None

    # --- life --------------------------------------------------------------------------------------------

    def started(self, settings: Settings) -> None:
        """Observer: the state directory is ours."""
        self._settings = settings
        self.metrics.every_hours = settings.reconcile.every_hours
        self._open_page()
        self._open_alerts()
        self._write()

    def reconfigured(self, settings: Settings) -> None:
        """Observer: the files were read again."""
        before, self._settings = self._settings, settings
        self.metrics.every_hours = settings.reconcile.every_hours
        if before is not None and before.monitor != settings.monitor:
            self._close_page()
            self._open_page()
        if before is not None and before.alerts != settings.alerts:
            self._close_alerts()
            self._open_alerts()

    def stopped(self, error: BaseException | None) -> None:
        """Observer: it's over."""
        self._running = False
        if error is not None and not isinstance(error, SystemExit | KeyboardInterrupt):
            self.health.failed(describe(error))
        self._close_page()
        self._close_alerts()
        self._write()

    def _open_page(self) -> None:
        assert self._settings is not None
        address = self._settings.monitor.address
        if not self._service or address is None:
            return
        from cdc_indexer.monitor.page import Page  # noqa: PLC0415 - not every command needs it

        try:
            self._page = Page(address, self)
        except (OSError, UnicodeError) as error:  # the latter for a host that can't be a name
            why = getattr(error, "strerror", None) or type(error).__name__
            log.warning(
                "there is no status page",
                reason=f"{self._settings.monitor.listen} can't be listened on ({why}): "
                "end what uses it, or set another monitor.listen.",
            )
            return
        self._page.start()
        log.info("status page", address=self._page.url)

    def _close_page(self) -> None:
        page, self._page = self._page, None
        if page is not None:
            page.close()

    def _open_alerts(self) -> None:
        assert self._settings is not None
        found = channels(self._settings) if self._service else {}
        self._alerts = Alerts(self._settings, found) if found else None

    def _close_alerts(self) -> None:
        alerts, self._alerts = self._alerts, None
        if alerts is not None:
            alerts.close()

    # --- being told --------------------------------------------------------------------------------------

    def sampled(self, sample: Sample) -> None:
        """Observer: how far it is."""
        self._sample = sample
        self.health.sampled(sample)
        self.metrics.clock(sample.clock_difference_seconds)
        if self._alerts is not None:
            self._alerts.look(self.health.problems())
        now = time.monotonic()
        if now - self._written[0] >= _WRITE_SECONDS or self._written[1] != self.health.changes:
            self._write()

    def source(self, source: Source, reason: str) -> None:
        """Observer: how it stands with the database."""
        if self.health.source(source, reason) and source is Source.UP:
            self.metrics.connected()

    def caught_up(self) -> None:
        """Observer: the end of the log is reached."""
        self.health.caught_up = True

    def delivered(self, delivery: Delivery, outcome: Outcome) -> None:
        """Observer: a delivery was accepted."""
        self.metrics.delivered(delivery, outcome)
        with self._lock:
            self._hour.add(time.monotonic())

    def parked(self, delivery: Delivery, outcome: Outcome) -> None:
        """Observer: a delivery was parked."""
        self.metrics.count_parked()
        self.health.failed(outcome.reason)

    def answered(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        """Observer: one request."""
        self.metrics.answered(outcomes, seconds)

    def gate(self, gate: Gate, reason: str, refusal: Refusal | None = None) -> None:
        """Observer: how it stands with the central index."""
        self.health.gate(gate, reason, refusal)

    def storage(self, error: StorageError | None) -> None:
        """Observer: whether the state directory can be written."""
        self.health.storage(error)

    def verification(self, reason: str | None) -> None:
        """Observer: whether the view can be read."""
        self.health.verification(reason)

    def condition(self, condition: Condition, reason: str | None) -> None:
        """Observer: something else is the matter, or is over."""
        self.health.condition(condition, reason)

    def compared(self, last_pass: Mapping[str, Any]) -> None:
        """Observer: archive and index were compared."""
        self._last_pass = dict(last_pass)
        self.metrics.compared(last_pass)
        self.health.changes += 1

    def audited(self, found: int) -> None:
        """Observer: the table was read."""
        self.metrics.audited(found)

    # --- telling -----------------------------------------------------------------------------------------

    def expose(self, accept: str) -> tuple[bytes, str]:
        """For Prometheus, and its content type."""
        return self.metrics.expose(self._sample, self.health, accept)

    def report(self) -> Report:
        """How it stands now."""
        settings, sample, health, metrics = self._settings, self._sample, self.health, self.metrics
        assert settings is not None
        problems = health.problems() if self._running else []
        with self._lock:
            hour = self._hour.counts(time.monotonic())
        error = health.last_error
        known = {}
        if sample is not None:
            known = {
                "server": sample.server,
                "position": sample.position,
                "settled_until": sample.settled_until.isoformat() + "Z",
                "bytes_behind": sample.lag_bytes,
                "seconds_behind": round(sample.lag_seconds, 1),
                "queued": sample.queued,
                "waiting": sample.waiting,
                "parked": sample.parked,
                "parked_reasons": [
                    {"reason": as_sentence(reason), "count": count} for reason, count in sample.parked_reasons
                ],
                "checkpoint_at": iso(sample.checkpoint_at),
                "at_index": sample.at_index,
            }
        return Report(
            version=__version__,
            center=settings.center,
            time=iso(time.time()) or "",
            running=self._running,
            service=self._service,
            **judged(problems, self._fine(sample)),
            connected=health.connected and self._running,
            caught_up=health.caught_up,
            delivered=metrics.accepted + metrics.already_there,
            retried=metrics.retried,
            last_error={"time": iso(error[0]), "message": error[1]} if error is not None else None,
            last_delivery_at=iso(metrics.last_delivery_at),
            started_at=iso(self._started_at),
            pid=os.getpid(),
            last_hour=hour,
            last_pass=self._last_pass,
            database=database_of(settings),
            **known,  # type: ignore[arg-type]
        )

    def _fine(self, sample: Sample | None) -> str:
        """The sentence when nothing is wrong."""
        if sample is not None and sample.lag_seconds > BEHIND_SECONDS:
            return f"It is catching up: {sample.lag_seconds:,.0f} s behind."
        return "All is well: studies go out as they are stored."

    def _write(self) -> None:
        """Writes status.json. On a disk that can't be written the old one stays, and its age tells."""
        assert self._settings is not None
        self._written = (time.monotonic(), self.health.changes)
        try:
            handover.write(self._settings.state_dir, FILE_NAME, self.report().to_json())
        except StorageError:
            pass
        except Exception as error:
            # Nothing that is only shown may end the service.
            log.error("status.json can't be made", reason=describe(error))

"""In `run`: when a sweep begins, and the thread that does it. Also what `reconcile` beside it asks for."""

from __future__ import annotations

import threading
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import structlog

from cdc_indexer.delivery.index_client import IndexUnavailable
from cdc_indexer.jobs.backfill import InitialOptions
from cdc_indexer.jobs.sweep import Sweep
from cdc_indexer.model.errors import IndexerError, SourceChanged, SourceError, Stopped, StorageError
from cdc_indexer.model.observer import Condition
from cdc_indexer.state import requests
from cdc_indexer.state.requests import Inbox, ReconcileRequest, Refused

if TYPE_CHECKING:
    from cdc_indexer.jobs.engine import Engine
    from cdc_indexer.jobs.runner import Runner

__all__ = ["Sweeper", "next_pass"]

log = structlog.get_logger("cdc_indexer")

#: By default a pass begins in these ten hours of the night, in local time, each centre at its own moment.
_NIGHT_BEGINS = timedelta(hours=20)
_NIGHT_SECONDS = 36_000

#: Without a binary log the table alone tells, so that the view is compared more often.
_TABLE_ONLY_SECONDS = 3600.0

#: After a pass that couldn't be done.
_AGAIN_SECONDS = 60.0


def next_pass(last: datetime | None, every_hours: float, center: str, now: datetime) -> datetime:
    """When the next pass is due, in local time. ``last``: when the last one ended, None: there was none.

    Once a day means: in the night, at a moment that depends on the centre, so that the centres of a region don't all ask
    their index at once.
    """
    if every_hours != 24:
        return now if last is None else last + timedelta(hours=every_hours)
    offset = _NIGHT_BEGINS + timedelta(seconds=zlib.crc32(center.encode()) % _NIGHT_SECONDS)
    since = now if last is None else last
    midnight = since.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    slot = midnight + offset
    # The first one after the last pass, but for what began in the same night.
    while slot <= since + (timedelta(hours=2) if last is not None else timedelta(0)):
        slot += timedelta(days=1)
    return slot


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A pass to be done: because of ``reason``, or as a request says."""

    reason: str
    suspicious: bool = False
    request: ReconcileRequest | None = None


class Sweeper:
    """``look`` is called every second by the main thread; ``ready`` once audit and stream have caught up."""

    def __init__(self, engine: Engine, runner: Runner) -> None:
        self._engine = engine
        self._runner = runner
        self._inbox = Inbox(engine.settings.state_dir)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._sweep: Sweep | None = None
        self._request: ReconcileRequest | None = None
        self._ready = False
        self._not_before = 0.0
        self._reason = ""
        self._suspicious = bool(engine.meta.get("suspicious"))
        if engine.store.rebuilt:
            self._reason = "the ledger was damaged"
        elif Sweep.NAME in engine.jobs:
            self._reason = "the last one was interrupted"

    def ready(self) -> None:
        """What the stream and the table had at the start is taken."""
        self._ready = True

    def want(self, reason: str, *, suspicious: bool = False) -> None:
        """Something may have hidden rows; a pass begins as soon as stream and table have caught up."""
        self._reason = self._reason or reason
        if suspicious and not self._suspicious:
            self._suspicious = True
            self._engine.remember("suspicious", True)

    def table_only(self) -> None:
        """There is no binary log: a pass an hour."""
        self._ready = True
        last = self._last()
        if last is None or (datetime.now() - last).total_seconds() >= _TABLE_ONLY_SECONDS:
            self.want("there is no binary log")

    def look(self) -> None:
        """Begins a pass when one is due, and answers who has asked for one."""
        if self._thread is not None and self._thread.is_alive():
            self._answer()
            return
        self._thread = None
        wanted = self._due()
        if wanted is None:
            return
        with self._lock:
            if self._runner.stopping.is_set():
                return
            self._thread = threading.Thread(target=self._work, args=[wanted], name="sweep", daemon=True)
            self._thread.start()

    def join(self) -> None:
        """Waits for the thread; ``stopping`` is set."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    # --- when --------------------------------------------------------------------------------------------

    def _last(self) -> datetime | None:
        last: Any = self._engine.meta.get("last_pass")
        with suppress(TypeError, KeyError, ValueError):
            moment = datetime.fromisoformat(last["at"].replace("Z", "+00:00"))
            return moment.astimezone().replace(tzinfo=None)
        return None

    def _due(self) -> _Wanted | None:
        request = self._read_request()
        if not self._ready or time.monotonic() < self._not_before:
            return None
        if request is not None:
            return _Wanted("asked for", self._suspicious, request)
        every_hours = self._engine.settings.reconcile.every_hours
        if self._reason:
            return _Wanted(self._reason, self._suspicious)
        if not every_hours:
            return None
        now = datetime.now()
        if now >= next_pass(self._last() or self._began(), every_hours, self._engine.settings.center, now):
            return _Wanted("the daily pass", self._suspicious)
        return None

    def _began(self) -> datetime | None:
        """When this state was begun: the first pass needn't come at once."""
        began = self._engine.meta.get("began_at")
        return datetime.fromtimestamp(began) if isinstance(began, float) else None

    def _read_request(self) -> ReconcileRequest | None:
        try:
            return self._inbox.read(ReconcileRequest)
        except Refused as error:
            log.error("a request is refused", reason=str(error))
            return None

    # --- the pass ----------------------------------------------------------------------------------------

    def _cancelled(self) -> bool:
        if self._request is None:
            return False
        request = self._read_request()
        return request is None or request.id != self._request.id

    def _work(self, wanted: _Wanted) -> None:
        engine = self._engine
        self._request = request = wanted.request
        options = InitialOptions(
            since=request.since if request else None, until=request.until if request else None
        )
        log.info("a sweep begins", reason=wanted.reason)
        self._sweep = sweep = Sweep(
            engine,
            studies_per_second=engine.settings.reconcile.studies_per_second,
            accept=request is not None and request.accept,
            report_only=request is not None and request.report_only,
            suspicious=wanted.suspicious,
            cancelled=self._cancelled,
            wants=options.wants,
            whole=options.whole,
            client=engine.index_client(),
        )
        try:
            result = sweep.feed()
        except Stopped:
            return
        except (SourceError, StorageError, IndexUnavailable) as error:
            changed = isinstance(error, SourceChanged)
            log.log(20 if changed else 30, "a sweep is interrupted", reason=str(error))
            self._not_before = time.monotonic() + (0.0 if changed else _AGAIN_SECONDS)
            self._reason = self._reason or "the last one was interrupted"
            return
        except IndexerError as error:
            self._runner.fail(error)
            return
        log.info("a sweep has ended", **{name: value for name, value in result.to_json().items() if value})
        if options.whole and not sweep.report_only:
            self._reason = ""
            held = result.held
            engine.observer.condition(Condition.CHANGES_HELD, held[:1].upper() + held[1:] if held else None)
            if not result.held and self._suspicious:
                self._suspicious = False
                engine.remember("suspicious", None)
        self._answer(done=True)
        if request is not None:
            requests.remove(engine.settings.state_dir, ReconcileRequest.file())
            self._request = None

    def _answer(self, *, done: bool = False) -> None:
        request, sweep = self._request, self._sweep
        if request is None or sweep is None:
            return
        content = {
            "id": request.id,
            "done": done,
            "after_pk": sweep.after_pk,
            "last_pk": sweep.last_pk,
            "pass": sweep.result.to_json(),
        }
        with suppress(StorageError):
            requests.write(self._engine.settings.state_dir, ReconcileRequest.answer_file(), content)

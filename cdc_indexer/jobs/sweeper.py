"""In `run`: when a sweep begins, and the thread that does it. Also what `reconcile` beside it asks for."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from cdc_indexer.delivery.index_client import IndexUnavailable, TooMany
from cdc_indexer.flow.observer import Condition
from cdc_indexer.jobs.backfill import InitialOptions
from cdc_indexer.jobs.passes import LAST_RESULT, Pass, Wanted
from cdc_indexer.jobs.sweep import Sweep
from cdc_indexer.model import failpoints
from cdc_indexer.model.errors import IndexerError, SourceChanged, SourceError, Stopped, StorageError
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

#: After a pass that couldn't be done, and after one that didn't end a doubt.
_AGAIN_SECONDS = 60.0
_DOUBT_AGAIN_SECONDS = 3600.0


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


class _Due(NamedTuple):
    """A pass to be done now."""

    reason: str
    wanted: Wanted | None = None
    request: ReconcileRequest | None = None


#: Why the ledger isn't believed: what is said, and to whom it concerns.
_DOUBTS = {
    Condition.INDEX_LOST: (
        "The central index has lost something of what it had accepted (a backup was restored, perhaps): it is compared with "
        "the archive, and what it lacks is sent",
        "The central index has lost something of what it had accepted, and answers no digests, so that nobody can say what: "
        "send everything again with `initial --restart`",
    ),
    Condition.OTHER_WRITER: (
        "Another process sends studies of this centre to the index: end it, or give it a centre of its own",
    )
    * 2,
}


class Sweeper:
    """``look`` is called every second by the main thread; ``ready`` once audit and stream have caught up."""

    def __init__(self, engine: Engine, runner: Runner) -> None:
        self._engine = engine
        self._runner = runner
        self._inbox = Inbox(engine.settings.state_dir)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._sweep: Sweep | None = None
        self._url = engine.settings.webservice_url
        self._request: ReconcileRequest | None = None
        self._until: float | None = None
        self._ready = False
        self._not_before = self._doubt_not_before = 0.0
        self._suspicious = bool(engine.meta.get("suspicious"))
        self._wanted = Wanted.of(engine.meta.get(Wanted.NAME))
        if engine.store.rebuilt:
            self.want("the ledger was damaged")
        self._interrupted = Sweep.NAME in engine.jobs
        if self._wanted is not None and self._wanted.doubt:
            self.doubt(Condition(self._wanted.doubt))

    def tell(self) -> None:
        """What the last pass came to, for who has just begun to listen."""
        last = self._engine.meta.get(LAST_RESULT)
        if isinstance(last, dict):
            self._tell(last)

    def _tell(self, last: Mapping[str, Any]) -> None:
        observer = self._engine.observer
        observer.compared(last)
        held = str(last.get("held") or "")
        observer.condition(Condition.CHANGES_HELD, held[:1].upper() + held[1:] if held else None)

    def ready(self) -> None:
        """What the stream and the table had at the start is taken."""
        self._ready = True

    @property
    def caught_up(self) -> bool:
        """Whether it is."""
        return self._ready

    # --- who wants one -----------------------------------------------------------------------------------

    def want(self, reason: str, *, suspicious: bool = False) -> None:
        """Something may have hidden rows; a pass begins as soon as stream and table have caught up.

        It survives a restart, and a pass that has begun already doesn't count.
        """
        self._want(Wanted(reason))
        if suspicious and not self._suspicious:
            self._suspicious = True
            self._engine.remember("suspicious", True)

    def doubt(self, condition: Condition) -> None:
        """The index may have lost what the ledger says: that isn't believed until the index itself was compared."""
        engine = self._engine
        with engine.inside() as core:
            core.doubt()
        if condition is Condition.INDEX_LOST:
            self._doubt_not_before = 0.0
        self._want(Wanted("", condition.value))
        said = _DOUBTS[condition][0 if self._comparable else 1]
        log.error("the ledger isn't believed", reason=said)
        engine.observer.condition(condition, said)

    def _want(self, wanted: Wanted) -> None:
        with self._lock:
            self._wanted = self._wanted.and_also(wanted) if self._wanted is not None else wanted
            self._engine.remember(Wanted.NAME, self._wanted.to_json())

    def _look_for_a_new_ledger(self) -> None:
        """`initial --restart` sends everything: what is wanted for the old ledger's sake is over."""
        with self._lock:
            if self._wanted is None or self._engine.meta.get(Wanted.NAME) is not None:
                return
            self._wanted = None
        self._believe()

    def _believe(self) -> None:
        engine = self._engine
        with engine.inside() as core:
            core.believe(engine.now())
        for condition in _DOUBTS:
            engine.observer.condition(condition, None)

    @property
    def _comparable(self) -> bool:
        return "digests" in self._engine.sending.known.features

    def table_only(self) -> None:
        """There is no binary log: a pass an hour."""
        self._ready = True
        last = self._last()
        if last is None or (datetime.now() - last).total_seconds() >= _TABLE_ONLY_SECONDS:
            with self._lock:
                if self._wanted is not None and self._wanted.reason:
                    return
            self.want("there is no binary log")

    # --- life --------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Begins a pass when one is due, and answers who has asked for one."""
        if (url := self._engine.settings.webservice_url) != self._url:
            self._url = url
            self.want("webservice_url is another one")
        if self.active:
            self._answer()
            return
        self._thread = None
        due = self._due()
        if due is not None:
            self._begin(due)

    @property
    def active(self) -> bool:
        """Whether a pass is being done."""
        return self._thread is not None and self._thread.is_alive()

    def once(self, most_seconds: float) -> None:
        """For a program that is to end: begins a pass if one is due, of which so much is done; the next one goes on."""
        self._ready = True
        self._until = time.monotonic() + most_seconds
        self.look()

    def _begin(self, due: _Due) -> None:
        with self._lock:
            if self._runner.stopping.is_set():
                return
            self._thread = threading.Thread(target=self._work, args=[due], name="sweep", daemon=True)
            self._thread.start()

    def join(self) -> None:
        """Waits for the thread; ``stopping`` is set."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    # --- when --------------------------------------------------------------------------------------------

    def _last(self) -> datetime | None:
        last: Any = self._engine.meta.get(LAST_RESULT)
        with suppress(TypeError, KeyError, ValueError):
            moment = datetime.fromisoformat(last["at"].replace("Z", "+00:00"))
            return moment.astimezone().replace(tzinfo=None)
        return None

    def _due(self) -> _Due | None:
        self._look_for_a_new_ledger()
        request = self._read_request()
        if not self._ready or time.monotonic() < self._not_before:
            return None
        wanted = self._wanted
        if request is not None:
            return _Due("asked for", wanted, request)
        if wanted is not None and wanted.reason:
            return _Due(wanted.reason, wanted)
        if wanted is not None and self._comparable and time.monotonic() >= self._doubt_not_before:
            return _Due("the ledger isn't believed", wanted)
        if self._interrupted:
            return _Due("the last one was interrupted", wanted)
        every_hours = self._engine.settings.reconcile.every_hours
        if not every_hours:
            return None
        now = datetime.now()
        if now >= next_pass(self._last() or self._began(), every_hours, self._engine.settings.center, now):
            return _Due("the daily comparison", wanted)
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

    def _enough(self) -> bool:
        return self._until is not None and time.monotonic() > self._until

    def _work(self, due: _Due) -> None:
        engine = self._engine
        self._request = request = due.request
        options = InitialOptions(
            since=request.since if request else None, until=request.until if request else None
        )
        log.info("a comparison begins", reason=due.reason)
        self._sweep = sweep = Sweep(
            engine,
            studies_per_second=engine.settings.reconcile.studies_per_second,
            accept=request is not None and request.accept,
            report_only=request is not None and request.report_only,
            suspicious=self._suspicious,
            cancelled=self._cancelled,
            enough=self._enough,
            hasty=self._until is not None and request is None,
            wants=None if options.whole else options.wants,
            client=engine.index_client(),
            wanted=due.wanted,
        )
        try:
            result = sweep.feed()
        except Stopped:
            self._interrupted = self._interrupted or request is None
            return
        except (SourceError, StorageError, IndexUnavailable, TooMany) as error:
            changed = isinstance(error, SourceChanged)
            log.log(20 if changed else 30, "a comparison is interrupted", reason=str(error))
            again = failpoints.seconds("pass_again", _AGAIN_SECONDS)
            self._not_before = time.monotonic() + (0.0 if changed else again)
            self._interrupted = True
            return
        except IndexerError as error:
            self._runner.fail(error)
            return
        log.info(
            "a comparison has ended", **{name: value for name, value in result.to_json().items() if value}
        )
        if options.whole and not sweep.report_only:
            self._ended(result, due.wanted)
        self._answer(done=True)
        if request is not None:
            requests.remove(engine.settings.state_dir, ReconcileRequest.file())
            self._request = None

    def _ended(self, result: Pass, wanted: Wanted | None) -> None:
        engine = self._engine
        self._interrupted = False
        self._tell(result.to_json())
        if not result.held and self._suspicious:
            self._suspicious = False
            engine.remember("suspicious", None)
        if wanted is None:
            return
        doubt = wanted.doubt
        with self._lock:
            if self._wanted != wanted:
                return  # something has happened since it began
            # An index that couldn't be compared stays in doubt.
            believed = not doubt or result.index
            self._wanted = None if believed else Wanted("", doubt, wanted.id)
        engine.remember(Wanted.NAME, None if believed else {"reason": "", "doubt": doubt, "id": wanted.id})
        if doubt and (not believed or doubt == Condition.OTHER_WRITER.value):
            # As long as the other one sends, it would be compared all the time.
            self._doubt_not_before = time.monotonic() + _DOUBT_AGAIN_SECONDS
        if believed and doubt:
            self._believe()
            log.info("the ledger is believed again: archive and index were compared")

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

"""In `run`: does what an `initial` or a `resend` beside it has asked for, behind the live studies."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import structlog

from cdc_indexer.flow.backfill import Counted
from cdc_indexer.flow.observer import Condition
from cdc_indexer.jobs.backfill import Initial, InitialOptions
from cdc_indexer.jobs.passes import Wanted
from cdc_indexer.jobs.resend import Resend, ResendOptions
from cdc_indexer.model.errors import IndexerError, SourceError, Stopped, StorageError
from cdc_indexer.model.unfinished import UNFINISHED, is_unfinished
from cdc_indexer.state import requests
from cdc_indexer.state.requests import Inbox, InitialRequest, Refused, Request, ResendRequest

if TYPE_CHECKING:
    from cdc_indexer.jobs.engine import Engine
    from cdc_indexer.jobs.runner import Runner

__all__ = ["Feeder", "options_of", "request_of"]

log = structlog.get_logger("cdc_indexer")

_R = TypeVar("_R", bound=Request)

#: How long it waits for a database that is away.
_AWAY_PAUSE_SECONDS = 5.0


def request_of(options: InitialOptions, number: str) -> InitialRequest:
    """The request that asks for it."""
    return InitialRequest(
        id=number,
        since=options.since,
        until=options.until,
        study_iuids=options.study_iuids,
        rate=options.rate,
        restart=options.restart,
        already_sent=options.already_sent,
    )


def options_of(request: InitialRequest) -> InitialOptions:
    """What a request asks for."""
    return InitialOptions(
        since=request.since,
        until=request.until,
        study_iuids=request.study_iuids,
        rate=request.rate,
        restart=request.restart,
        already_sent=request.already_sent,
    )


class Feeder:
    """``look`` is called every second by the main thread."""

    def __init__(self, engine: Engine, runner: Runner) -> None:
        self._engine = engine
        self._runner = runner
        self._inbox = Inbox(engine.settings.state_dir)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._number = ""
        self._initial: Initial | None = None
        self._unfinished = False

    def look(self) -> None:
        """Begins with a new request, and says how far the present one is."""
        if self._thread is not None and self._thread.is_alive():
            self._answer()
            return
        self._thread = None
        request = self._request()
        resending = self._read(ResendRequest) if request is None else None
        self._tell(begins=request is not None)
        if request is None and resending is None:
            return
        self._number = (request or resending).id  # type: ignore[union-attr]
        # Not always looked for by the thread that joins it: only one that has begun can be joined.
        with self._lock:
            if self._runner.stopping.is_set():
                return
            target: Callable[..., None] = self._feed if request is not None else self._resend
            self._thread = threading.Thread(
                target=target, args=[request or resending], name="feeder", daemon=True
            )
            self._thread.start()

    def _tell(self, *, begins: bool) -> None:
        """Whether one waits to be taken up: who began it may believe that it is done."""
        engine = self._engine
        unfinished = not begins and is_unfinished(engine.jobs, engine.meta)
        if unfinished == self._unfinished:
            return
        self._unfinished = unfinished
        engine.observer.condition(Condition.INITIAL_UNFINISHED, UNFINISHED if unfinished else None)
        if unfinished:
            log.warning("an initial isn't done", reason=UNFINISHED)

    def join(self) -> None:
        """Waits for the thread; ``stopping`` is set."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    def _request(self) -> InitialRequest | None:
        return self._read(InitialRequest)

    def _read(self, kind: type[_R]) -> _R | None:
        try:
            return self._inbox.read(kind)
        except Refused as error:
            log.error("a request is refused", reason=str(error))
            return None

    def _cancelled(self) -> bool:
        request = self._request()
        return request is None or request.id != self._number

    def _resend(self, request: ResendRequest) -> None:
        engine = self._engine
        self._initial = None
        job = Resend(engine, ResendOptions.of(request), request.id)
        try:
            job.feed()
        except (Stopped, SourceError) as error:
            # The request is still there, and its studies have the same keys.
            log.info("a resending was interrupted", reason=str(error))
            self._runner.stopping.wait(_AWAY_PAUSE_SECONDS)
            return
        except IndexerError as error:
            log.error("a resending failed", reason=str(error))
        else:
            log.info("sent again", sent=job.backfill.sent, parked=job.backfill.parked)
        requests.remove(engine.settings.state_dir, ResendRequest.file())

    def _feed(self, request: InitialRequest) -> None:
        engine = self._engine
        try:
            options = options_of(request)
            log.info("an initial is fed behind the live studies")
            if options.restart:
                with engine.inside() as core:
                    core.backfills.begin_ledger(engine.now())
                engine.remember(Wanted.NAME, None)
            while True:
                self._initial = Initial(
                    engine,
                    options,
                    cancelled=self._cancelled,
                    begun=partial(self._begun, options),
                )
                try:
                    self._initial.feed()
                    break
                except SourceError as error:
                    log.warning("the initial waits for the database", reason=str(error))
                    options = options._replace(restart=False)
                    if self._runner.stopping.wait(_AWAY_PAUSE_SECONDS):
                        raise Stopped from None
            self._answer(done=True)
            requests.remove(engine.settings.state_dir, requests.REQUEST)
            counted = self._initial.counted
            log.info("the initial is done", sent=counted.sent, parked=counted.parked)
        except Stopped:
            log.info("the initial was stopped; the next one goes on from there")
        except IndexerError as error:
            log.error("the initial failed", reason=str(error))
            self._answer(error=str(error))
            requests.remove(engine.settings.state_dir, requests.REQUEST)

    def _begun(self, options: InitialOptions) -> None:
        """After a kill it goes on, instead of beginning once more."""
        if options.restart and not self._cancelled():
            again = request_of(options._replace(restart=False), self._number)
            requests.ask(self._engine.settings.state_dir, again)

    def _answer(self, *, done: bool = False, error: str = "") -> None:
        counted = self._initial.counted if self._initial is not None else Counted(0, 0, 0, 0, 0)
        with suppress(StorageError):
            requests.write(
                self._engine.settings.state_dir,
                requests.PROGRESS,
                {"number": self._number, "counted": counted._asdict(), "done": done, "error": error},
            )

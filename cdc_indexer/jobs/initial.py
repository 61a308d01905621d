"""`initial`: sends the studies that the PACS already holds, page by page, resumable at any point.

Alone it has its own engine and takes the position before its first page, so that `run` goes on without a gap. Beside a
running `run` it leaves a request (see handover.py), and `run` feeds the pages behind its live studies: one process, one
dispatcher, one order.
"""

from __future__ import annotations

import sys
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from cdc_indexer.jobs.backfill import PAGE, Counted, Held, InitialOptions, study_pk_of, take_position
from cdc_indexer.jobs.engine import PATIENCE_SECONDS, Engine
from cdc_indexer.jobs.runner import Runner
from cdc_indexer.model.errors import (
    AlreadyRunning,
    FatalError,
    IndexerError,
    SourceError,
    Stopped,
    StorageError,
)
from cdc_indexer.model.study import study_json
from cdc_indexer.source.outbox import Outbox
from cdc_indexer.state import requests as handover
from cdc_indexer.state.lock import StateLock

if TYPE_CHECKING:
    from cdc_indexer.model.settings import Settings

__all__ = ["Counted", "Feeder", "InitialOptions", "initial"]

log = structlog.get_logger("cdc_indexer")

#: How long the feeder in `run` waits for a database that is away.
_AWAY_PAUSE_SECONDS = 5.0


def dry_run(settings: Settings, options: InitialOptions) -> None:
    """Prints the JSON of every study that would be sent, one a line; sends and settles nothing."""
    outbox = Outbox(settings.database)
    try:
        after_pk = 0
        while True:
            uids = options.study_iuids
            page = outbox.page_of(uids) if uids else outbox.page_after(after_pk, PAGE)
            for values in page.studies:
                if options.wants(values):
                    sys.stdout.buffer.write(study_json(values, settings.center, settings.fields) + b"\n")
            if uids or len(page.studies) < PAGE:
                break
            after_pk = study_pk_of(page.studies[-1])
        sys.stdout.buffer.flush()
    finally:
        outbox.close()


class Initial:
    """The command alone: its own engine, in this process."""

    def __init__(
        self, settings: Settings, options: InitialOptions, show: Callable[[Counted, bool], None]
    ) -> None:
        self._runner = Runner()
        self._engine = Engine(
            settings,
            self._runner,
            reload=lambda: None,
            patience_seconds=PATIENCE_SECONDS,
            new_center=options.restart,
        )
        self._outbox = Outbox(settings.database)
        self._held = Held(self._engine, self._outbox, options, behind=False)
        self._show = show
        self._done = False

    def run(self) -> bool:
        """Sends everything; False when a signal ended it before."""
        if self._held.resumed:
            log.info("going on where the last initial stopped", after_study_pk=self._held.counted.at_pk)
        self._engine.start()
        self._runner.run(
            self._work,
            tick=lambda: self._show(self._held.counted, self._done),
            tick_seconds=0.25,
            hang_up=lambda: None,
            clean_up=self._engine.stop,
        )
        self._outbox.close()
        return self._done

    def _work(self) -> None:
        take_position(self._engine)
        self._held.feed()
        self._done = True


class Beside:
    """The command beside a running `run`, which does the work; this process shows how far it is."""

    def __init__(
        self, settings: Settings, options: InitialOptions, show: Callable[[Counted, bool], None]
    ) -> None:
        self._settings = settings
        self._options = options
        self._show = show
        self._runner = Runner()
        self._counted = Counted(0, 0, 0, 0, 0)
        self._done = False

    def run(self) -> bool:
        """Waits until `run` has sent everything; False when a signal ended this, and with it the request."""
        log.info("a `run` is active: it sends the studies behind the live ones")
        self._runner.run(
            self._wait,
            tick=lambda: self._show(self._counted, self._done),
            tick_seconds=0.25,
            hang_up=lambda: None,
            clean_up=lambda: None,
        )
        return self._done

    def _wait(self) -> None:
        state_dir = self._settings.state_dir
        number = str(uuid.uuid4())
        if handover.read(state_dir, handover.REQUEST) is not None:
            raise FatalError(
                "Another `initial` waits for the running `run` already: let it end, or stop it first."
            )
        _ask(state_dir, number, self._options)
        try:
            while not self._runner.stopping.wait(0.2):
                answer = handover.read(state_dir, handover.PROGRESS)
                request = handover.read(state_dir, handover.REQUEST)
                if request is not None and request.get("number") != number:
                    raise FatalError("The running `run` sends every study anew: this `initial` isn't needed.")
                if answer and answer["number"] == number:
                    self._counted = Counted(**answer["counted"])
                    if answer["error"]:
                        raise FatalError(answer["error"])
                    if answer["done"]:
                        self._done = True
                        return
                self._still_running()
        finally:
            request = handover.read(state_dir, handover.REQUEST)
            if request is not None and request.get("number") == number:
                handover.remove(state_dir, handover.REQUEST)

    def _still_running(self) -> None:
        try:
            with StateLock(self._settings.state_dir, "initial"):
                pass
        except AlreadyRunning:
            return
        raise FatalError(
            "The `run` that was sending the studies has ended: start `initial` again, it goes on from there."
        )


class Feeder:
    """In `run`: feeds what an `initial` beside it has asked for. ``look`` is called every second by the main thread."""

    def __init__(self, engine: Engine, runner: Runner) -> None:
        self._engine = engine
        self._runner = runner
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._number = ""
        self._held: Held | None = None

    def request(self, options: InitialOptions) -> None:
        """Asks for one of our own, which a restart doesn't forget; raises StorageError."""
        _ask(self._engine.settings.state_dir, str(uuid.uuid4()), options)

    @property
    def busy(self) -> bool:
        """Whether something is asked for and not done."""
        return handover.read(self._engine.settings.state_dir, handover.REQUEST) is not None

    def look(self) -> None:
        """Begins with a new request, and says how far the present one is."""
        state_dir = self._engine.settings.state_dir
        if self._thread is not None and self._thread.is_alive():
            self._answer()
            return
        self._thread = None
        request = handover.read(state_dir, handover.REQUEST)
        if request is not None:
            self._number = str(request.get("number"))
            # Not always looked for by the thread that joins it: only one that has begun can be joined.
            with self._lock:
                if self._runner.stopping.is_set():
                    return
                self._thread = threading.Thread(
                    target=self._feed, args=[request], name="initial", daemon=True
                )
                self._thread.start()

    def join(self) -> None:
        """Waits for the thread; ``stopping`` is set."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    def _cancelled(self) -> bool:
        request = handover.read(self._engine.settings.state_dir, handover.REQUEST)
        return request is None or request.get("number") != self._number

    def _feed(self, request: dict[str, Any]) -> None:
        engine = self._engine
        outbox = Outbox(engine.settings.database)
        try:
            options = InitialOptions.from_json(request)
            log.info("an initial is fed behind the live studies")
            while True:
                self._held = Held(
                    engine,
                    outbox,
                    options,
                    behind=True,
                    cancelled=self._cancelled,
                    begun=partial(self._begun, options),
                )
                try:
                    self._held.feed()
                    break
                except SourceError as error:
                    log.warning("the initial waits for the database", reason=str(error))
                    options = replace(options, restart=False)
                    if self._runner.stopping.wait(_AWAY_PAUSE_SECONDS):
                        raise Stopped from None
            self._answer(done=True)
            handover.remove(engine.settings.state_dir, handover.REQUEST)
            log.info("the initial is done", sent=self._held.counted.sent, parked=self._held.counted.parked)
        except Stopped:
            log.info("the initial was stopped; the next one goes on from there")
        except IndexerError as error:
            log.error("the initial failed", reason=str(error))
            self._answer(error=str(error))
            handover.remove(engine.settings.state_dir, handover.REQUEST)
        finally:
            outbox.close()

    def _begun(self, options: InitialOptions) -> None:
        """After a kill it goes on, instead of beginning once more."""
        if options.restart and not self._cancelled():
            _ask(self._engine.settings.state_dir, self._number, replace(options, restart=False))

    def _answer(self, *, done: bool = False, error: str = "") -> None:
        counted = self._held.counted if self._held is not None else Counted(0, 0, 0, 0, 0)
        with suppress(StorageError):
            handover.write(
                self._engine.settings.state_dir,
                handover.PROGRESS,
                {"number": self._number, "counted": asdict(counted), "done": done, "error": error},
            )


def _ask(state_dir: Path, number: str, options: InitialOptions) -> None:
    """Leaves a request for the running `run`; raises StorageError."""
    handover.write(state_dir, handover.REQUEST, {"number": number, **options.to_json()})


def initial(settings: Settings, options: InitialOptions, show: Callable[[Counted, bool], None]) -> bool:
    """The command `initial`; ``show`` is told several times a second how far it came, and at the end that it's done.

    False when a signal ended it; the next one goes on from there. Raises SourceError or FatalError with what happened.
    """
    if options.dry_run:
        dry_run(settings, options)
        return True
    lock = StateLock(settings.state_dir, "initial")
    try:
        lock.acquire()
    except AlreadyRunning:
        if lock.held_by != "run":
            raise
        return Beside(settings, options, show).run()
    try:
        return Initial(settings, options, show).run()
    finally:
        lock.release()

"""`initial`: sends the studies that the PACS already holds, page by page, resumable at any point.

Alone it has its own engine and takes the position before its first page, so that `run` goes on without a gap. Beside a
running `run` it leaves a request (state/requests.py), and `run` feeds the pages behind its live studies (feeder.py): one
process, one order.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from cdc_indexer.delivery.index_client import IndexUnavailable, TooMany
from cdc_indexer.flow.backfill import Counted
from cdc_indexer.jobs import backfill
from cdc_indexer.jobs.alone import Alone, no_run_active
from cdc_indexer.jobs.backfill import PAGE, InitialOptions, study_pk_of, take_position
from cdc_indexer.jobs.feeder import request_of
from cdc_indexer.jobs.passes import Wanted
from cdc_indexer.jobs.runner import Runner
from cdc_indexer.jobs.sweep import Sweep
from cdc_indexer.model.errors import AlreadyRunning, FatalError
from cdc_indexer.model.study import names, study_json
from cdc_indexer.source.outbox import Outbox
from cdc_indexer.source.source import Source
from cdc_indexer.state import requests
from cdc_indexer.state.lock import StateLock

if TYPE_CHECKING:
    from cdc_indexer.model.settings import Settings

__all__ = ["Counted", "InitialOptions", "absent", "initial"]

log = structlog.get_logger("cdc_indexer")

#: How many studies a second are compared with the index before the first page, at the most.
_PER_SECOND = 100_000.0


def dry_run(settings: Settings, options: InitialOptions) -> None:
    """Prints the JSON of every study that would be sent, one a line; sends and settles nothing."""
    source = Source(settings.database)
    outbox = Outbox(source)
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
        source.close()


def absent(settings: Settings, study_iuids: Sequence[str]) -> list[str]:
    """Those of the named studies that the archive doesn't hold; raises SourceError."""
    source = Source(settings.database)
    try:
        found = {names(values)[0] for values in Outbox(source).view_of(study_iuids)}
    finally:
        source.close()
    return [uid for uid in study_iuids if uid not in found]


class _ByItself:
    """The command with an engine of its own, in this process."""

    def __init__(
        self, settings: Settings, options: InitialOptions, show: Callable[[Counted, bool], None]
    ) -> None:
        self._alone = Alone(settings, anew=options.restart)
        self._engine = self._alone.engine
        self._initial = backfill.Initial(self._engine, options)
        self._options = options
        self._show = show
        self._done = False

    def run(self) -> bool:
        """Sends everything; False when a signal ended it before."""
        if self._initial.resumed:
            log.info("going on where the last initial stopped", after_study_pk=self._initial.counted.at_pk)
        self._alone.run(self._work, lambda: self._show(self._initial.counted, self._done))
        return self._done

    def _learn_from_index(self) -> None:
        """What the index has already is left out, where it says what it has."""
        engine = self._engine
        engine.sending.ask()
        client = engine.index_client()
        if client is None or engine.store.count:
            return
        with suppress(IndexUnavailable, TooMany):
            Sweep(engine, studies_per_second=_PER_SECOND, rest=0.0, client=client, learning=True).feed()

    def _work(self) -> None:
        take_position(self._engine)
        if self._options.restart:
            self._engine.remember(Wanted.NAME, None)
        if not self._options.restart and not self._options.already_sent:
            self._learn_from_index()
        self._initial.feed()
        self._done = True


class _Beside:
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
        if requests.read(state_dir, requests.REQUEST) is not None:
            raise FatalError(
                "Another `initial` waits for the running `run` already: let it end, or stop it first."
            )
        requests.ask(state_dir, request_of(self._options, number))
        try:
            while not self._runner.stopping.wait(0.2):
                answer = requests.read(state_dir, requests.PROGRESS)
                request = requests.read(state_dir, requests.REQUEST)
                if request is not None and request.get("id") != number:
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
            request = requests.read(state_dir, requests.REQUEST)
            if request is not None and request.get("id") == number:
                requests.remove(state_dir, requests.REQUEST)

    def _still_running(self) -> None:
        try:
            with StateLock(self._settings.state_dir, "initial"):
                pass
        except AlreadyRunning:
            return
        raise FatalError(
            "The `run` that was sending the studies has ended: start `initial` again, it goes on from there."
        )


def initial(settings: Settings, options: InitialOptions, show: Callable[[Counted, bool], None]) -> bool:
    """The command `initial`; ``show`` is told several times a second how far it came, and at the end that it's done.

    False when a signal ended it; the next one goes on from there. Raises SourceError or FatalError with what happened.
    """
    if options.dry_run:
        dry_run(settings, options)
        return True
    with no_run_active(settings.state_dir, "initial") as free:
        return (_ByItself if free else _Beside)(settings, options, show).run()

"""`reconcile`: compares archive and ledger, and heals what differs; alone, or by the `run` that is active."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import structlog

from cdc_indexer.flow.backfill import Counted
from cdc_indexer.jobs.alone import Alone, no_run_active
from cdc_indexer.jobs.backfill import InitialOptions, take_position
from cdc_indexer.jobs.passes import Wanted
from cdc_indexer.jobs.runner import Runner
from cdc_indexer.jobs.sweep import Sweep
from cdc_indexer.model.errors import AlreadyRunning, FatalError
from cdc_indexer.state import requests
from cdc_indexer.state.lock import StateLock
from cdc_indexer.state.requests import ReconcileRequest

if TYPE_CHECKING:
    from cdc_indexer.model.settings import Settings

__all__ = ["ReconcileOptions", "reconcile"]

log = structlog.get_logger("cdc_indexer")

Show = Callable[[Counted, bool], None]


@dataclass(frozen=True, slots=True)
class ReconcileOptions:
    """What the command line asks for. Dates are inclusive, of study_datetime."""

    since: date | None = None
    until: date | None = None
    report_only: bool = False
    accept: bool = False


def reconcile(settings: Settings, options: ReconcileOptions, show: Show) -> dict[str, Any] | None:
    """One pass; what it came to (``Pass.to_json``), None when a signal ended it. ``show`` is told how far it is.

    Raises SourceError or FatalError with what happened.
    """
    with no_run_active(settings.state_dir, "reconcile") as free:
        return (_ByItself if free else _Beside)(settings, options, show).run()


class _ByItself:
    def __init__(self, settings: Settings, options: ReconcileOptions, show: Show) -> None:
        self._alone = Alone(settings)
        self._engine = self._alone.engine
        self._engine.sending.ask()
        chosen = InitialOptions(since=options.since, until=options.until)
        self._sweep = Sweep(
            self._engine,
            studies_per_second=settings.reconcile.studies_per_second,
            accept=options.accept,
            report_only=options.report_only,
            suspicious=bool(self._engine.meta.get("suspicious")),
            wants=None if chosen.whole else chosen.wants,
            client=self._engine.index_client(),
        )
        self._show = show
        self._result: dict[str, Any] | None = None

    def run(self) -> dict[str, Any] | None:
        self._alone.run(self._work, self._tell)
        return self._result

    def _work(self) -> None:
        engine = self._engine
        take_position(engine)
        wanted = Wanted.of(engine.meta.get(Wanted.NAME))
        result = self._sweep.feed()
        if self._sweep.whole and not (self._sweep.report_only or result.held):
            # It is known how much that changes.
            engine.remember("suspicious", None)
        if self._sweep.whole and not self._sweep.report_only:
            if wanted is not None and (result.index or not wanted.doubt):
                engine.remember(Wanted.NAME, None)
            engine.flush()
        self._result = result.to_json()

    def _tell(self) -> None:
        self._show(
            _counted(self._sweep.result.to_json(), self._sweep.after_pk, self._sweep.last_pk),
            self._result is not None,
        )


class _Beside:
    """Beside a running `run`, which does the work; this process shows how far it is."""

    def __init__(self, settings: Settings, options: ReconcileOptions, show: Show) -> None:
        self._settings = settings
        self._request = ReconcileRequest(
            id=str(uuid.uuid4()),
            since=options.since,
            until=options.until,
            report_only=options.report_only,
            accept=options.accept,
        )
        self._show = show
        self._runner = Runner()
        self._answer: dict[str, Any] = {}

    def run(self) -> dict[str, Any] | None:
        log.info("a `run` is active: it does the pass")
        self._runner.run(
            self._wait,
            tick=self._tick,
            tick_seconds=0.25,
            hang_up=lambda: None,
            clean_up=lambda: None,
        )
        return self._answer.get("pass") if self._answer.get("done") else None

    def _tick(self) -> None:
        if result := self._answer.get("pass"):
            counted = _counted(result, self._answer["after_pk"], self._answer["last_pk"])
            self._show(counted, bool(self._answer["done"]))

    def _wait(self) -> None:
        state_dir = self._settings.state_dir
        if requests.read(state_dir, ReconcileRequest.file()) is not None:
            raise FatalError("Another `reconcile` waits for the running `run` already: let it end.")
        requests.ask(state_dir, self._request)
        try:
            while not self._runner.stopping.wait(0.2):
                answer = requests.read(state_dir, ReconcileRequest.answer_file())
                if answer and answer.get("id") == self._request.id:
                    self._answer = answer
                    if answer["done"]:
                        return
                self._still_running()
        finally:
            request = requests.read(state_dir, ReconcileRequest.file())
            if request is not None and request.get("id") == self._request.id:
                requests.remove(state_dir, ReconcileRequest.file())

    def _still_running(self) -> None:
        try:
            with StateLock(self._settings.state_dir, "reconcile"):
                pass
        except AlreadyRunning:
            return
        raise FatalError("The `run` that was comparing has ended: start `reconcile` again.")


def _counted(result: dict[str, Any], after_pk: int, last_pk: int) -> Counted:
    return Counted(result["compared"], 0, result["healed"], after_pk, last_pk)

"""Tells the central index how this centre is, and learns from the answer whether the index went back in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from cdc_indexer import __version__
from cdc_indexer.delivery.index_client import IndexClient, IndexUnavailable, TooMany
from cdc_indexer.model import failpoints
from cdc_indexer.model.observer import Condition

if TYPE_CHECKING:
    from cdc_indexer.jobs.engine import Engine
    from cdc_indexer.jobs.sweeper import Sweeper

__all__ = ["Reporter"]

log = structlog.get_logger("cdc_indexer")

_EVERY_SECONDS = 60.0

#: A change of health is looked for this often.
_LOOK_SECONDS = 1.0


class Reporter:
    """A thread of its own, since the index may be slow. ``summary`` gives a Report as JSON."""

    def __init__(self, engine: Engine, sweeper: Sweeper, summary: Callable[[], Mapping[str, Any]]) -> None:
        self._engine = engine
        self._sweeper = sweeper
        self._summary = summary
        self._every_seconds = failpoints.seconds("report", _EVERY_SECONDS)
        self._thread = threading.Thread(target=self._work, name="reporter", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def join(self) -> None:
        """Waits for its end, a moment: there is nothing that it has to finish."""
        if self._thread.ident is not None:
            self._thread.join(1.0)

    def _work(self) -> None:
        engine = self._engine
        told: object = None
        next_at = 0.0
        while not engine.stopping.wait(_LOOK_SECONDS):
            if "reports" not in engine.sending.known.features:
                continue
            summary = self._summary()
            health = (summary["state"], tuple(problem["cause"] for problem in summary["problems"]))
            if health == told and time.monotonic() < next_at:
                continue
            next_at = time.monotonic() + self._every_seconds
            try:
                self._report(summary)
                told = health
            except (IndexUnavailable, TooMany) as error:
                # Its failure changes nothing: what is wrong with the index, the studies say.
                log.debug("the report wasn't taken", reason=str(error))

    def _report(self, summary: Mapping[str, Any]) -> None:
        engine = self._engine
        with engine.inside() as core:
            at = core.looks.draw(engine.now())
            accepted = core.parts.settlement.highest
        if at is None:
            return  # the bound is being moved
        accepted = max(accepted, engine.meta.get("highest") or 0)
        client = IndexClient(engine.settings)
        try:
            previous, highest = client.report(self._content(summary, at))
        finally:
            client.close()
        before = engine.meta.get("reported_at")
        with engine.inside() as core:
            given_out = core.parts.clock.last
        if before is not None and (previous is None or previous < before):
            self._went_back("it doesn't know our last report")
        elif accepted and (highest is None or highest < accepted):
            self._went_back("it lacks the newest that it had accepted")
        elif highest is not None and highest > given_out:
            with engine.inside() as core:
                core.parts.clock.saw(highest)
            said = "Another process sends studies of this centre to the index: end it, or give it a centre of its own"
            log.error("another writer", reason=said)
            engine.observer.condition(Condition.OTHER_WRITER, said)
            self._sweeper.want("another process writes for this centre")
        engine.remember("reported_at", at)
        engine.remember("highest", max(accepted, highest or 0))

    def _went_back(self, why: str) -> None:
        log.error("the central index has lost something: it is compared with the archive", reason=why)
        self._sweeper.want("the central index has lost something")

    def _content(self, summary: Mapping[str, Any], at: int) -> dict[str, Any]:
        """No patient, no host name."""
        content: dict[str, Any] = {
            "at": at,
            "center": self._engine.settings.center,
            "program": __version__,
            "state": summary["state"],
            "problems": [problem["cause"] for problem in summary["problems"]],
            "behind_seconds": summary["seconds_behind"],
            "waiting": (summary["waiting"] or 0),
            "parked": summary["parked"] or 0,
            "last_delivery": summary["last_delivery_at"],
        }
        last = self._engine.meta.get("last_pass")
        if isinstance(last, dict):
            names = ("at", "compared", "missing", "stale", "extra", "kept")
            content["last_pass"] = {name: last.get(name) for name in names}
        return content

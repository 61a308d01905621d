"""Tells the central index how this centre is, and learns from the answer whether the index went back in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from cdc_indexer import __version__
from cdc_indexer.delivery.index_client import IndexClient, IndexUnavailable, Range, TooMany
from cdc_indexer.flow.observer import Condition
from cdc_indexer.flow.unproven import MANY, Accepted, shows_loss
from cdc_indexer.jobs.backfill import draw_after
from cdc_indexer.model import failpoints
from cdc_indexer.model.errors import Stopped, StorageError

if TYPE_CHECKING:
    from cdc_indexer.jobs.engine import Engine
    from cdc_indexer.jobs.sweeper import Sweeper

__all__ = ["Reporter"]

log = structlog.get_logger("cdc_indexer")

_EVERY_SECONDS = 60.0

#: A change of health is looked for this often.
_LOOK_SECONDS = 1.0

#: After a report that wasn't taken.
_AGAIN_SECONDS = 4.0

#: In the durable state: study_pks of what the index accepted and hasn't been seen to hold since.
_UNPROVEN = "unproven"


class Reporter:
    """A thread of its own, since the index may be slow. ``summary`` gives a Report as JSON."""

    def __init__(self, engine: Engine, sweeper: Sweeper, summary: Callable[[], Mapping[str, Any]]) -> None:
        self._engine = engine
        self._sweeper = sweeper
        self._summary = summary
        #: What an earlier process sent last is known, or was sent again: the highest version at the index is one of ours.
        #: With a new state it isn't before the first report.
        self._all_known = False
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
        self._recall()
        while not engine.stopping.wait(_LOOK_SECONDS):
            self._keep()
            if "reports" not in engine.sending.known.features:
                continue
            summary = self._summary()
            health = (summary["state"], tuple(problem["cause"] for problem in summary["problems"]))
            many = engine.core.parts.settlement.unproven.many
            if health == told and time.monotonic() < next_at and not many:
                continue
            next_at = time.monotonic() + self._every_seconds
            try:
                self._report(summary)
                told = health
            except Stopped:
                break
            except (IndexUnavailable, TooMany) as error:
                # Its failure changes nothing: what is wrong with the index, the studies say.
                log.debug("the report wasn't taken", reason=str(error))
                engine.stopping.wait(_AGAIN_SECONDS)
        self._keep()

    # --- what isn't proven yet ---------------------------------------------------------------------------

    def _keep(self) -> None:
        """What the index hasn't been seen to hold survives a restart."""
        engine = self._engine
        with engine.inside() as core:
            unproven = core.parts.settlement.unproven
            if not unproven.changed:
                return
            unproven.changed = False
            study_pks = unproven.study_pks
        engine.remember(_UNPROVEN, study_pks)

    def _recall(self) -> None:
        """What it was before a restart: the ledger says what the index accepted of these studies."""
        engine = self._engine
        study_pks = engine.meta.get(_UNPROVEN)
        if not isinstance(study_pks, list):
            return
        try:
            entries = [entry for pk in study_pks for entry in engine.store.by_pk(pk - 1, pk, 1)]
        except StorageError:
            return
        with engine.inside() as core:
            core.parts.settlement.unproven.give_back(
                (entry.study_iuid, Accepted(entry.study_pk, (), entry.digest))
                for entry in entries
                if entry.digest is not None
            )

    # --- a report ----------------------------------------------------------------------------------------

    def _report(self, summary: Mapping[str, Any]) -> None:
        engine = self._engine
        ready = self._sweeper.caught_up
        before, at = draw_after(engine)
        with engine.inside() as core:
            settlement = core.parts.settlement
            newest = settlement.highest
            unproven = settlement.unproven.take()
        accepted = max(newest, engine.meta.get("highest") or 0)
        client = IndexClient(engine.settings)
        try:
            previous, highest = client.report(self._content(summary, at))
            reported_at = engine.meta.get("reported_at")
            with engine.inside() as core:
                clock = core.parts.clock
                given_out = clock.last
                ours = max(before, clock.recorded, settlement.highest, accepted)
            lost = ""
            if reported_at is not None and (previous is None or previous < reported_at):
                lost = "it doesn't know our last report"
            elif accepted and (highest is None or highest < accepted):
                lost = "it lacks the newest that it had accepted"
            elif "digests" in engine.sending.known.features and self._lacks(client, unproven):
                lost = "it lacks what it has accepted since the last report"
        except BaseException:
            with engine.inside() as core:
                core.parts.settlement.unproven.give_back(unproven.items())
            raise
        finally:
            client.close()
        if lost:
            log.error("the central index has lost something", reason=lost)
            self._sweeper.doubt(Condition.INDEX_LOST)
            with engine.inside() as core:
                # What is lost is said once.
                if core.parts.settlement.highest == newest:
                    core.parts.settlement.highest = highest or 0
            accepted = highest or 0
        elif highest is not None and (
            highest > max(given_out, accepted) or (self._all_known and ours < highest < at)
        ):
            with engine.inside() as core:
                core.parts.clock.saw(highest)
            log.error("another process sends studies of this centre to the index")
            self._sweeper.doubt(Condition.OTHER_WRITER)
        self._all_known = ready
        engine.remember("reported_at", at)
        engine.remember("highest", max(accepted, highest or 0))

    def _lacks(self, client: IndexClient, unproven: dict[str, Accepted]) -> bool:
        """Whether the index has lost something of what it accepted, though it knows our last report.

        It went back by less than a report then, and has got a live study since.
        """
        studies = list(unproven.items())
        for start in range(0, len(studies), MANY):
            some = studies[start : start + MANY]
            ranges: list[Range] = [(one.study_pk - 1, one.study_pk) for _, one in some]
            for (key, one), answer, this in zip(some, client.digests(ranges), ranges, strict=True):
                should = (0, 0) if one.now is None else (1, int.from_bytes(one.now, "big"))
                if answer != should and self._lacks_one(client, key, one, this):
                    return True
        return False

    def _lacks_one(self, client: IndexClient, key: str, one: Accepted, this: Range) -> bool:
        listed = {study.study_iuid: study.digest for study in client.listed(this)}
        if not shows_loss(one, listed.get(key)):
            return False
        with self._engine.inside() as core:
            return core.lost(key, one)

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
        names = ("at", "compared", "missing", "stale", "extra", "kept")
        content["last_pass"] = {name: last.get(name) for name in names} if isinstance(last, dict) else None
        return content

"""One sweep: the whole view against the ledger, page by page, and what differs is looked at again in its turn.

It makes completeness independent of binlog, outbox and clocks: what nobody saw is found here. It takes no lock, holds no
read transaction over a page, and rests between pages.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import structlog

from cdc_indexer.delivery.index_client import IndexClient
from cdc_indexer.flow.backfill import Backfill
from cdc_indexer.flow.compare import Compared, compare
from cdc_indexer.flow.readings import Values
from cdc_indexer.jobs.backfill import ALL
from cdc_indexer.jobs.reconciliation import Difference, Ranges, Reconciliation
from cdc_indexer.model import failpoints
from cdc_indexer.model.errors import SourceChanged, Stopped
from cdc_indexer.model.ledger import Entry
from cdc_indexer.model.study import names, study_key
from cdc_indexer.source.outbox import Outbox

if TYPE_CHECKING:
    from cdc_indexer.jobs.engine import Engine

__all__ = ["GONE_AFTER_SECONDS", "Pass", "Sweep", "scope_pk"]

log = structlog.get_logger("cdc_indexer")

PAGE = 200

#: A pass rests so many times as long as each page took.
REST = 9.0

#: Gone is what isn't there by its UID in two readings of one epoch, so far apart (CONVERGENCE 2).
GONE_AFTER_SECONDS = 600.0

#: So many studies that the index keeps otherwise than they were sent are remembered.
_STUBBORN = 1000

#: More deletions than this, and than that part of the ledger, are held.
_VALVE_DELETIONS = 50
_VALVE_DELETIONS_PART = 0.01

#: After the source's identity has changed: more changes than this part of the ledger are held.
_VALVE_CHANGES_PART = 0.1


@dataclass(slots=True)
class Pass:
    """What a pass found and did; ``held`` is why nothing of it is sent, empty: it is."""

    began_at: float = field(default_factory=time.time)
    compared: int = 0
    missing: int = 0
    stale: int = 0
    extra: int = 0
    kept: int = 0
    healed: int = 0
    held: str = ""
    #: Whether the index itself was compared, by digests.
    index: bool = False
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """For the durable state, the report and `--json`; ``at`` is its end."""
        ended = datetime.fromtimestamp(self.began_at + self.seconds, timezone.utc)
        return {
            "at": ended.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "compared": self.compared,
            "missing": self.missing,
            "stale": self.stale,
            "extra": self.extra,
            "kept": self.kept,
            "healed": self.healed,
            "held": self.held,
            "index": self.index,
            "seconds": round(self.seconds, 1),
        }


def scope_pk(scope: object) -> int:
    """Above this study_pk a study that the ledger doesn't know is missing."""
    return scope if isinstance(scope, int) else 0 if scope == ALL else 2**63 - 1


class Sweep:
    """One pass. ``feed`` returns when what differs is settled and durable.

    Attributes:
        accept: the safety valve is open: somebody has said that so many changes are right.
        report_only: nothing is sent.
        suspicious: the source's identity has changed, so nothing is sent before it is known how much differs.
    """

    NAME = "sweep"

    def __init__(
        self,
        engine: Engine,
        *,
        studies_per_second: float,
        accept: bool = False,
        report_only: bool = False,
        suspicious: bool = False,
        rest: float = REST,
        gone_after_seconds: float | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        wants: Callable[[Values], bool] = lambda values: True,
        whole: bool = True,
        client: IndexClient | None = None,
        on_page: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._outbox = Outbox(engine.source)
        self._interval = PAGE / studies_per_second
        self._accept = accept
        self.report_only = report_only
        self._suspicious = suspicious and not accept
        self._rest = failpoints.seconds("rest", rest)
        if gone_after_seconds is None:
            gone_after_seconds = failpoints.seconds("gone_after", GONE_AFTER_SECONDS)
        self._gone_after_seconds = gone_after_seconds
        self._cancelled = cancelled
        self._on_page = on_page
        self._wants = wants
        self._whole = whole
        #: The index, where it answers digests.
        self._client = client if whole else None
        self._ranges: Ranges | None = None
        #: Of studies that the index had otherwise than it should: the digest that it should have had.
        self._stubborn: dict[str, str] = {}
        state = engine.jobs.get(self.NAME) if whole and not report_only else None
        self._backfill = Backfill(self.NAME, str(uuid.uuid4()), {}, state)
        self.result = Pass()
        #: The highest study_pk of the view at the beginning.
        self.last_pk = 0
        #: What is to be hinted at once it is known how much that is: (study_iuid, study_pk).
        self._kept_back: list[tuple[str, int]] = []
        #: Entries that weren't in the view, and when that was seen first (monotonic).
        self._gone: dict[str, tuple[Entry, float]] = {}

    @property
    def after_pk(self) -> int:
        """How far it is."""
        return self._backfill.after_pk

    def feed(self) -> Pass:
        """Raises SourceError when the database can't be read, SourceChanged when it is another one meanwhile, Stopped."""
        engine = self._engine
        began = time.monotonic()
        self._scope = scope_pk(engine.meta.get("scope"))
        with engine.inside() as core:
            core.parts.results.follow(self._backfill)
        epoch = engine.source.epoch
        outbox = self._outbox.at(epoch)
        self.last_pk = outbox.last_study_pk()
        after_pk = self._backfill.after_pk
        if self._client is not None:
            self._ranges = Ranges(self._client.digests, engine.adopt)
            # A pass that was interrupted says nothing of what lay before.
            after_pk = 0
        while True:
            page_began = time.monotonic()
            self._on_page()
            studies = outbox.view_after(after_pk, PAGE)
            until_pk = names(studies[-1])[1] if len(studies) == PAGE else None
            self._compare(studies, after_pk, until_pk)
            if until_pk is None:
                break
            after_pk = until_pk
            with engine.inside():
                self._backfill.passed(after_pk)
            took = time.monotonic() - page_began
            self._pause(max(took * self._rest, self._interval - took))
        self._send_kept_back()
        self._wait_for_the_end()
        if self._client is not None and not self.result.held:
            self._compare_with_index(self._client, outbox)
        self._deal_with_gone(epoch)
        self._wait_for_the_end()
        self.result.seconds = time.monotonic() - began
        with engine.inside() as core:
            core.parts.results.forget(self.NAME)
        if self._whole and not self.report_only:
            engine.remember("last_pass", self.result.to_json())
        engine.flush()
        return self.result

    # --- pages -------------------------------------------------------------------------------------------

    def _compare(self, studies: list[Values], after_pk: int, until_pk: int | None) -> None:
        engine = self._engine
        entries = self._entries(after_pk, until_pk)
        keys = [study_key(*names(values)) for values in studies]
        entries.update(engine.store.lookup([key for key in keys if key not in entries]))
        with engine.inside() as core:
            policy = core.parts.policy
            # Nothing that is under way says anything yet, on either side.
            open_keys = {key for key in (*keys, *entries) if core.busy(key)}
        found = compare(
            policy,
            [
                values
                for values, key in zip(studies, keys, strict=True)
                if key not in open_keys and self._wants(values)
            ],
            {key: entry for key, entry in entries.items() if key not in open_keys},
            scope_pk=self._scope,
        )
        self.result.compared += found.studies
        self.result.missing += len(found.missing)
        self.result.stale += len(found.stale)
        self.result.kept += found.kept
        if self._ranges is not None:
            differs = bool(open_keys or found.missing or found.stale or found.gone)
            self._ranges.add(studies, entries, policy, unclear=differs, until_pk=until_pk)
        self._hint(found)

    def _compare_with_index(self, client: IndexClient, outbox: Outbox) -> None:
        """What the index has otherwise than the ledger says; it counts when it is still so after a while."""
        engine = self._engine
        assert self._ranges is not None
        self._ranges.finish()
        self.result.index = True
        reconciliation = Reconciliation(engine, client, outbox)
        suspects = [one for one in self._ranges.suspects if reconciliation.differences(one)]
        if suspects:
            self._pause(engine.settings.delivery.quiet_seconds)
        now = time.monotonic()
        differing: list[tuple[str, int]] = []
        for one in suspects:
            for difference in reconciliation.differences(one):
                self._pause(0.0)
                if self._is_stubborn(difference):
                    self.result.kept += 1
                    continue
                if difference.extra:
                    entry = Entry(difference.study_iuid, difference.study_pk, digest=difference.held)
                    self._gone.setdefault(difference.study_iuid, (entry, now))
                elif difference.held is None:
                    self.result.missing += 1
                else:
                    self.result.stale += 1
                if self.report_only:
                    continue
                engine.correct(difference.study_iuid, difference.study_pk, difference.held)
                if not difference.extra:
                    differing.append((difference.study_iuid, difference.study_pk))
        if not self.report_only:
            engine.remember("stubborn", self._stubborn)
            engine.remember("scope", ALL)
            engine.flush()
            self._send(differing)
            self._wait_for_the_end()

    def _is_stubborn(self, difference: Difference) -> bool:
        """Whether the index has taken this very document before and has something else: it isn't sent again and again."""
        if difference.held is None or difference.wanted is None:
            return False
        wanted = difference.wanted.hex()
        known = self._engine.meta.get("stubborn") or {}
        if len(self._stubborn) < _STUBBORN:
            self._stubborn[difference.study_iuid] = wanted
        if known.get(difference.study_iuid) != wanted:
            return False
        log.warning(
            "the index keeps a study otherwise than it was sent: it isn't sent again until it changes",
            study_pk=difference.study_pk,
        )
        return True

    def _entries(self, after_pk: int, until_pk: int | None) -> dict[str, Entry]:
        """The ledger's entries of that range. A study that wasn't read because of the dates isn't gone for that."""
        if not self._whole:
            return {}
        entries: dict[str, Entry] = {}
        while True:
            page = self._engine.store.by_pk(after_pk, until_pk, PAGE)
            entries.update((entry.study_iuid, entry) for entry in page)
            if len(page) < PAGE:
                return entries
            after_pk = page[-1].study_pk

    def _hint(self, found: Compared) -> None:
        now = time.monotonic()
        for entry in found.gone:
            self._gone.setdefault(entry.study_iuid, (entry, now))
        differing = [*found.missing, *found.stale]
        if self.report_only or self.result.held:
            return
        if not self._suspicious:
            self._send(differing)
            return
        self._kept_back += differing
        changes = len(self._kept_back) + len(self._gone)
        if changes > _VALVE_CHANGES_PART * max(self._engine.store.count, 1):
            self._hold(
                f"the database is another one than before, and more than {_VALVE_CHANGES_PART:.0%} of the studies would "
                "change at the central index: nothing of that is sent. See whether it is the right archive, then run "
                "`reconcile --accept`"
            )

    def _send(self, differing: list[tuple[str, int]]) -> None:
        engine = self._engine
        for study_iuid, study_pk in differing:
            engine.wait_for_room_behind()
            with engine.inside() as core:
                core.backfills.hint(study_iuid, study_pk, engine.now(), backfill=self._backfill)

    def _send_kept_back(self) -> None:
        if not self.result.held:
            self._send(self._kept_back)
        self._kept_back = []

    def _hold(self, why: str) -> None:
        self.result.held = why
        self._kept_back = []
        log.error("a sweep is held", reason=why)

    def _pause(self, seconds: float) -> None:
        if self._cancelled() or self._engine.stopping.wait(seconds):
            raise Stopped

    # --- what is gone ------------------------------------------------------------------------------------

    def _deal_with_gone(self, epoch: int) -> None:
        """Looks again, by UID, after a while; what isn't there then either is gone."""
        engine = self._engine
        if not self._gone:
            return
        if self.report_only:
            self.result.extra = len(self._gone)
            return
        last = max(at for _, at in self._gone.values())
        while (left := last + self._gone_after_seconds - time.monotonic()) > 0:
            self._pause(min(left, 1.0))
        if epoch != engine.source.epoch:
            raise SourceChanged("The database is another one than before: what is gone is looked for anew.")
        outbox = self._outbox.at(epoch)
        gone: list[Entry] = []
        keys = list(self._gone)
        for start in range(0, len(keys), PAGE):
            some = keys[start : start + PAGE]
            there = {str(values.get("study_iuid")) for values in outbox.view_of(some)}
            gone += [self._gone[key][0] for key in some if key not in there]
            self._pause(0.0)
        with engine.inside() as core:
            deletes = core.parts.policy.deletes
        if not deletes:
            self.result.kept += len(gone)
        elif gone:
            self.result.extra += len(gone)
            limit = max(_VALVE_DELETIONS, _VALVE_DELETIONS_PART * engine.store.count)
            if self.result.held:
                return
            if len(gone) > limit and not self._accept:
                self._hold(
                    f"{len(gone):,} studies would be deleted from the central index, because the archive doesn't hold them: "
                    "nothing of that is sent. See whether the archive is whole, then run `reconcile --accept`"
                )
                return
        for entry in gone:
            engine.wait_for_room_behind()
            with engine.inside() as core:
                uid = "" if entry.study_iuid.startswith("#") else entry.study_iuid
                core.backfills.hint(uid, entry.study_pk, engine.now(), backfill=self._backfill, gone=True)

    def _wait_for_the_end(self) -> None:
        while self._backfill.open:
            self._pause(0.02)
        with self._engine.inside():
            self.result.healed = self._backfill.sent

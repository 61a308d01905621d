"""One pass: the whole view against the ledger, page by page, then against the index; what differs is looked at in its turn.

It makes completeness independent of binlog, outbox and clocks: what nobody saw is found here. It takes no lock, holds no
read transaction over a page, and rests between pages. A pass that was interrupted goes on where its last part ended.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog

from cdc_indexer.delivery.index_client import IndexClient
from cdc_indexer.flow.backfill import Backfill
from cdc_indexer.flow.case import Insist
from cdc_indexer.flow.compare import Compared, compare
from cdc_indexer.flow.readings import Values
from cdc_indexer.jobs.differing import LOOKS, IndexHalf
from cdc_indexer.jobs.gone import Gone
from cdc_indexer.jobs.passes import LAST_RESULT, Pass, Wanted, scope_pk
from cdc_indexer.jobs.reconciliation import Ranges, Reconciliation
from cdc_indexer.model import failpoints
from cdc_indexer.model.errors import Stopped
from cdc_indexer.model.ledger import Entry
from cdc_indexer.model.study import names, study_key
from cdc_indexer.model.unfinished import ALL
from cdc_indexer.source.outbox import Outbox

if TYPE_CHECKING:
    from cdc_indexer.jobs.engine import Engine

__all__ = ["Sweep"]

log = structlog.get_logger("cdc_indexer")

PAGE = 200

#: So many studies are a part: when they are compared, on both sides, a pass that is interrupted goes on behind them.
PART = 50_000

#: A pass rests so many times as long as each page took.
REST = 9.0

#: So many studies may wait for a second look.
_MOST_DOUBTFUL = 20_000

#: After the source's identity has changed: more changes than this part of the ledger are held.
_VALVE_CHANGES_PART = 0.1


class Sweep:
    """One pass. ``feed`` returns when what differs is settled and durable.

    Attributes:
        accept: the safety valve is open: somebody has said that so many changes are right.
        report_only: nothing is sent.
        learning: as that, before anything is under way: what the index has goes into the ledger; nothing is looked at twice.
        enough: whether what is left is for another time; asked after each part.
        hasty: so is what has to wait until it is known to be gone.
        suspicious: the source's identity has changed, so nothing is sent before it is known how much differs.
        wanted: why it is done; one that was interrupted goes on only if nothing was wanted since.
    """

    NAME = "sweep"

    def __init__(
        self,
        engine: Engine,
        *,
        studies_per_second: float,
        accept: bool = False,
        report_only: bool = False,
        learning: bool = False,
        suspicious: bool = False,
        rest: float = REST,
        gone_after_seconds: float | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        enough: Callable[[], bool] = lambda: False,
        hasty: bool = False,
        wants: Callable[[Values], bool] | None = None,
        client: IndexClient | None = None,
        on_page: Callable[[], None] = lambda: None,
        wanted: Wanted | None = None,
    ) -> None:
        self._engine = engine
        self._accept = accept
        self.report_only = report_only or learning
        self._learning = learning
        self._suspicious = suspicious and not accept
        self._rest = failpoints.seconds("rest", rest)
        self._gone_after_seconds = gone_after_seconds
        self._cancelled = cancelled
        self._enough = enough
        self._hasty = hasty
        self._on_page = on_page
        self._wants = wants
        self.whole = wants is None
        #: The index, where it answers digests.
        self._client = client
        self._ranges: Ranges | None = None
        self._part = failpoints.number("sweep_part", PART)
        self._page = min(PAGE, self._part)
        self._interval = self._page / studies_per_second
        #: What is durable of it.
        self._state: dict[str, Any] = {"wanted": wanted.id if wanted is not None else ""}
        self._backfill = Backfill(self.NAME, str(uuid.uuid4()), self._state)
        self.result = Pass()
        #: The highest study_pk of the view at the beginning, and up to where it was read.
        self.last_pk = self.after_pk = 0
        #: What differed, and when (monotonic): it counts if it still does once something of it would have come.
        self._doubtful: deque[tuple[float, str, int]] = deque()
        #: What is to be hinted at once it is known how much that is: (study_iuid, study_pk).
        self._kept_back: list[tuple[str, int]] = []
        #: UIDs that count as different already, of this part.
        self._counted: set[str] = set()
        self._healed_before = 0
        self._begun = False
        self._tracked = self.whole and not self.report_only

    def feed(self) -> Pass:
        """Raises SourceError when the database can't be read, SourceChanged when it is another one meanwhile, Stopped."""
        try:
            return self._feed()
        except BaseException:
            if self._begun and self._tracked:
                with self._engine.inside():
                    self._engine.jobs[self.NAME] = self._backfill.state()
            raise

    def _feed(self) -> Pass:
        engine = self._engine
        began = time.monotonic()
        self._scope = scope_pk(engine.meta.get("scope"))
        epoch = engine.source.epoch
        self._outbox = outbox = Outbox(engine.source).at(epoch)
        self._gone = Gone(engine, outbox, self._pause, self._gone_after_seconds)
        self.last_pk = outbox.last_study_pk()
        took = self._resume(engine.jobs.get(self.NAME))
        self._begun = True
        if self._tracked:
            with engine.inside() as core:
                core.parts.results.follow(self._backfill)
        half = None
        if self._client is not None:
            self._ranges = Ranges(self._client.digests, engine.adopt, self.after_pk)
            half = IndexHalf(
                engine,
                Reconciliation(engine, self._client, outbox, self._wants),
                self.result,
                self._gone,
                report_only=self.report_only,
                looks=1 if self._learning else LOOKS,
                pause=self._pause,
                send=self._send_and_wait,
            )
        resumed = "read" in self._state
        more = not self._state.get("read")
        while more:
            more = self._read_part(self.after_pk)
            self._confirm(everything=True)
            self._send_kept_back()
            self._wait_for_the_end()
            failpoints.hit("sweep_part_read")
            if half is not None and self._ranges is not None and not self.result.held:
                half.heal(self._ranges.finish(self.after_pk if more else None), self._counted)
                self.result.index = True
            self._counted.clear()
            self.result.seconds = took + time.monotonic() - began
            if half is not None and self._tracked and not self.result.held:
                half.remember(whole=not more and not resumed)
                if not more:
                    engine.remember("scope", ALL)
            self._keep(read=not more)
            failpoints.hit("sweep_part_done")
            if more and self._enough():
                raise Stopped
        self._deal_with_gone(epoch)
        self._wait_for_the_end()
        self.result.seconds = took + time.monotonic() - began
        self.result.ended_at = time.time()
        failpoints.hit("sweep_end")
        if self._tracked:
            with engine.inside() as core:
                core.parts.results.forget(self.NAME)
                engine.jobs.pop(self.NAME, None)
            engine.remember(LAST_RESULT, self.result.to_json())
        engine.flush()
        return self.result

    # --- where it goes on --------------------------------------------------------------------------------

    def _resume(self, before: object) -> float:
        """Takes up what an interrupted pass had done; the seconds that this took."""
        state = before.get("selection") if isinstance(before, dict) else None
        if not self._tracked or self._suspicious or not isinstance(state, dict):
            return 0.0
        if state.get("wanted") != self._state["wanted"] or not isinstance(state.get("gone"), dict):
            return 0.0
        if state["index"] != (self._client is not None):
            return 0.0
        self.result = Pass.of(state["pass"])
        self._healed_before = self.result.healed
        self.after_pk = state["after_pk"]
        self._gone.again(state["gone"])
        self._state.update(state)
        log.info("a comparison goes on", after_pk=self.after_pk)
        return self.result.seconds

    def _keep(self, *, read: bool) -> None:
        """This part is done: a pass that is interrupted later goes on behind it. ``read``: it was the last."""
        if not self._tracked or self._suspicious:
            return
        state = {
            "after_pk": self.after_pk,
            "pass": self.result.state(),
            "index": self._client is not None,
            "gone": self._gone.state(),
            "read": read,
        }
        with self._engine.inside() as core:
            self._state.update(state)
            self._backfill.moved = True
            core.parts.results.moved()
        self._engine.flush()

    # --- pages -------------------------------------------------------------------------------------------

    def _read_part(self, after_pk: int) -> bool:
        """Reads and compares some pages; whether there are more. (Not known to be right: all of it is one part.)"""
        read = 0
        while read < self._part or self._suspicious:
            page_began = time.monotonic()
            self._on_page()
            studies = self._outbox.view_after(after_pk, self._page)
            until_pk = names(studies[-1])[1] if len(studies) == self._page else None
            self._compare(studies, after_pk, until_pk)
            self._confirm()
            if until_pk is None:
                return False
            read += len(studies)
            self.after_pk = after_pk = until_pk
            took = time.monotonic() - page_began
            self._pause(max(took * self._rest, self._interval - took))
            failpoints.hit("sweep_page")
        return True

    def _compare(self, studies: list[Values], after_pk: int, until_pk: int | None) -> None:
        engine = self._engine
        entries = self._entries(after_pk, until_pk)
        keys = [study_key(*names(values)) for values in studies]
        entries.update(engine.store.lookup([key for key in keys if key not in entries]))
        with engine.inside() as core:
            policy = core.parts.policy
            # Nothing that is under way says anything yet, on either side.
            open_keys = {key for key in (*keys, *entries) if core.busy(key)}
        wanted = [
            values
            for values, key in zip(studies, keys, strict=True)
            if key not in open_keys and (self._wants is None or self._wants(values))
        ]
        known = {key: entry for key, entry in entries.items() if key not in open_keys}
        found = compare(policy, wanted, known, scope_pk=self._scope)
        self.result.compared += found.studies
        self.result.kept += found.kept
        if self._ranges is not None:
            self._ranges.add(studies, entries, policy, busy=open_keys, until_pk=until_pk)
        if self.whole:
            for entry in found.gone:
                self._gone.add(entry)
        now = time.monotonic()
        self._doubtful += ((now, uid, study_pk) for uid, study_pk in (*found.missing, *found.stale))

    def _entries(self, after_pk: int, until_pk: int | None) -> dict[str, Entry]:
        """The ledger's entries of that range. A study that wasn't read because of the dates isn't gone for that."""
        if not self.whole:
            return {}
        entries: dict[str, Entry] = {}
        while True:
            page = self._engine.store.by_pk(after_pk, until_pk, PAGE)
            entries.update((entry.study_iuid, entry) for entry in page)
            if len(page) < PAGE:
                return entries
            after_pk = page[-1].study_pk

    def _confirm(self, *, everything: bool = False) -> None:
        """What differed is looked at once more: its row may have been on its way. What has come since isn't a difference."""
        if self._learning:
            self._doubtful.clear()
        quiet = self._engine.settings.delivery.quiet_seconds
        while self._doubtful:
            if (left := self._doubtful[0][0] + quiet - time.monotonic()) > 0:
                if not everything and len(self._doubtful) < _MOST_DOUBTFUL:
                    return
                self._pause(left)
            last = time.monotonic() - quiet
            some: list[tuple[float, str, int]] = []
            while self._doubtful and len(some) < PAGE and self._doubtful[0][0] <= last:
                some.append(self._doubtful.popleft())
            self._count(self._compare_again([(uid, study_pk) for _, uid, study_pk in some]))

    def _compare_again(self, some: list[tuple[str, int]]) -> Compared:
        engine = self._engine
        without_uid = {study_pk for uid, study_pk in some if not uid}
        studies = self._outbox.view_of([uid for uid, _ in some if uid])
        if without_uid:
            studies += [
                values
                for study_pk in without_uid
                for values in self._outbox.view_after(study_pk - 1, 1)
                if names(values)[1] == study_pk
            ]
        keys = [study_key(*names(values)) for values in studies]
        entries = engine.store.lookup(keys)
        with engine.inside() as core:
            policy = core.parts.policy
            studies = [v for v, key in zip(studies, keys, strict=True) if not core.busy(key)]
        found = compare(policy, studies, entries, scope_pk=self._scope)
        found.gone.clear()
        return found

    def _count(self, found: Compared) -> None:
        self.result.missing += len(found.missing)
        self.result.stale += len(found.stale)
        differing = [*found.missing, *found.stale]
        self._counted.update(uid for uid, _ in differing)
        if self.report_only or self.result.held:
            return
        if not self._suspicious:
            self._send(differing)
            return
        self._kept_back += differing
        self._hold_if_too_many(len(self._kept_back) + len(self._gone))

    def _hold_if_too_many(self, changes: int) -> None:
        """The safety valve for a database that is another one than before."""
        limit = _VALVE_CHANGES_PART * max(self._engine.store.count, 1)
        if self._suspicious and not self.result.held and changes > limit:
            self._hold(
                f"the database is another one than before, and more than {_VALVE_CHANGES_PART:.0%} of the studies would "
                "change at the central index: nothing of that is sent. See whether it is the right archive, then run "
                "`reconcile --accept`"
            )

    # --- what is sent ------------------------------------------------------------------------------------

    def _send(self, differing: list[tuple[str, int]], insist: Insist = Insist.NO) -> None:
        engine, backfill = self._engine, self._backfill
        for study_iuid, study_pk in differing:
            engine.wait_for_room_behind()
            with engine.inside() as core:
                core.backfills.hint(
                    study_iuid, study_pk, engine.now(), backfill=backfill, insist=insist, seed=backfill.run
                )

    def _send_and_wait(self, differing: list[tuple[str, int]], insist: Insist) -> None:
        self._send(differing, insist)
        self._wait_for_the_end()

    def _send_kept_back(self) -> None:
        self._hold_if_too_many(len(self._kept_back) + len(self._gone))
        if not self.result.held:
            self._send(self._kept_back)
        self._kept_back = []

    def _hold(self, why: str) -> None:
        self.result.held = why
        self._kept_back = []
        log.error("a comparison is held", reason=why)

    def _pause(self, seconds: float) -> None:
        if self._cancelled() or self._engine.stopping.wait(seconds):
            raise Stopped

    def _deal_with_gone(self, epoch: int) -> None:
        """What isn't there after a while either is gone."""
        if self.report_only:
            self._gone.count_all(self.result)
            return
        kept = self._tracked and not self._suspicious and self._gone.state() is not None
        if self._hasty and kept and self._gone.left_seconds > 0:
            raise Stopped
        gone = self._gone.confirmed(epoch)
        held = self._gone.count(gone, self.result, accept=self._accept)
        if held and not self.result.held:
            self._hold(held)
        # What the index has beyond the ledger is known only now.
        self._hold_if_too_many(self.result.missing + self.result.stale + self.result.extra)
        if self.result.held:
            return
        self._gone.hint(gone, self._backfill)

    def _wait_for_the_end(self) -> None:
        while self._backfill.open:
            self._pause(0.02)
        with self._engine.inside():
            self.result.healed = self._healed_before + self._backfill.sent

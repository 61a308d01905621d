"""What a pass didn't find in the view: whether it is gone, and what follows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from cdc_indexer.flow.decide import may_hold
from cdc_indexer.jobs.passes import Pass
from cdc_indexer.model import failpoints
from cdc_indexer.model.errors import SourceChanged
from cdc_indexer.model.ledger import Entry
from cdc_indexer.source.outbox import Outbox

if TYPE_CHECKING:
    from cdc_indexer.jobs.engine import Engine

__all__ = ["GONE_AFTER_SECONDS", "Gone"]

#: Gone is what isn't there by its UID in two readings of one epoch, so far apart (CONVERGENCE 2).
GONE_AFTER_SECONDS = 600.0

#: More deletions than this, and than that part of the ledger, are held.
_VALVE_DELETIONS = 50
_VALVE_DELETIONS_PART = 0.01

#: So many are remembered over a restart; if there are more, the pass begins anew.
_REMEMBERED = 1000

_PAGE = 200


class Gone:
    """Entries that weren't in the view, and when that was seen first (monotonic).

    ``pause`` waits so long, and raises Stopped at the end.
    """

    def __init__(
        self, engine: Engine, outbox: Outbox, pause: Callable[[float], None], after_seconds: float | None
    ) -> None:
        self._engine = engine
        self._outbox = outbox
        self._pause = pause
        if after_seconds is None:
            after_seconds = failpoints.seconds("gone_after", GONE_AFTER_SECONDS)
        self._after_seconds = after_seconds
        self._entries: dict[str, tuple[Entry, float]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Entry) -> None:
        """The view doesn't have it now."""
        self._entries.setdefault(entry.study_iuid, (entry, time.monotonic()))

    @property
    def keys(self) -> list[str] | None:
        """For who goes on after a restart; None when they are too many."""
        return list(self._entries) if len(self._entries) <= _REMEMBERED else None

    def again(self, keys: list[str]) -> None:
        """A pass goes on that had found these. What was read in another epoch doesn't count, so they are read again."""
        entries = self._engine.store.lookup(keys).values()
        # Some may have been deleted just before it was interrupted.
        for entry in self._absent(entry for entry in entries if may_hold(entry)):
            self.add(entry)

    def _absent(self, entries: Iterable[Entry]) -> list[Entry]:
        """Those that the view doesn't have under any primary key."""
        absent: list[Entry] = []
        rest = list(entries)
        for start in range(0, len(rest), _PAGE):
            some = rest[start : start + _PAGE]
            there = {str(v.get("study_iuid")) for v in self._outbox.view_of([e.study_iuid for e in some])}
            absent += [entry for entry in some if entry.study_iuid not in there]
            self._pause(0.0)
        return absent

    def confirmed(self, epoch: int) -> list[Entry]:
        """Those that aren't there after a while either. Raises SourceChanged when the first reading was in another epoch."""
        if not self._entries:
            return []
        with self._engine.inside() as core:
            policy = core.parts.policy
        # Where nothing is deleted, and what comes back is compared with what the index has, nobody has to wait.
        after_seconds = self._after_seconds if policy.deletes or not policy.updates else 0.0
        last = max(at for _, at in self._entries.values())
        while (left := last + after_seconds - time.monotonic()) > 0:
            self._pause(min(left, 1.0))
        if epoch != self._engine.source.epoch:
            raise SourceChanged("The database is another one than before: what is gone is looked for anew.")
        return self._absent(entry for entry, _ in self._entries.values())

    def count(self, gone: list[Entry], result: Pass, *, accept: bool) -> str:
        """Counts them; why nothing of that may be sent, empty: it may."""
        with self._engine.inside() as core:
            deletes = core.parts.policy.deletes
        if not deletes:
            result.kept += len(gone)
            return ""
        result.extra += len(gone)
        limit = max(_VALVE_DELETIONS, _VALVE_DELETIONS_PART * self._engine.store.count)
        if accept or len(gone) <= limit:
            return ""
        return (
            f"{len(gone):,} studies would be deleted from the central index, because the archive doesn't hold them: "
            "nothing of that is sent. See whether the archive is whole, then run `reconcile --accept`"
        )

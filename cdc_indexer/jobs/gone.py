"""What a pass didn't find in the view: whether it is gone, and what follows."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdc_indexer.flow.decide import may_hold
from cdc_indexer.jobs.passes import Pass
from cdc_indexer.model import failpoints
from cdc_indexer.model.errors import SourceChanged
from cdc_indexer.model.ledger import Entry
from cdc_indexer.source.outbox import Outbox

if TYPE_CHECKING:
    from cdc_indexer.flow.backfill import Backfill
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

#: Epochs are counted in one process.
_PROCESS = uuid.uuid4().hex


def _boot() -> str:
    """The monotonic clock is one for all processes until the machine starts again. Empty: nobody knows."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


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

    def state(self) -> dict[str, Any] | None:
        """For who goes on after a restart; None when they are too many."""
        if len(self._entries) > _REMEMBERED:
            return None
        return {**self._where(), "since": {key: at for key, (_, at) in self._entries.items()}}

    def _where(self) -> dict[str, Any]:
        source = self._engine.source
        identity = source.identity
        server = [identity.server, identity.database, identity.table] if identity is not None else None
        return {"boot": _boot(), "server": server, "process": _PROCESS, "epoch": source.epoch}

    def again(self, state: Mapping[str, Any]) -> None:
        """A pass goes on that had found these: they are read once more.

        When they were seen first counts if that was in this epoch, or by an earlier process on the same server.
        """
        since = state["since"]
        entries = self._engine.store.lookup(list(since)).values()
        # Some may have been deleted just before it was interrupted.
        absent = self._absent(entry for entry in entries if may_hold(entry))
        now, where = time.monotonic(), self._where()
        same = bool(where["boot"]) and all(where[name] == state[name] for name in ("boot", "server"))
        if state["process"] == _PROCESS:
            same = same and state["epoch"] == where["epoch"]
        for entry in absent:
            self._entries[entry.study_iuid] = (entry, since[entry.study_iuid] if same else now)

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

    @property
    def left_seconds(self) -> float:
        """Until it can be known whether they are gone."""
        if not self._entries:
            return 0.0
        with self._engine.inside() as core:
            policy = core.parts.policy
        # Where nothing is deleted, and what comes back is compared with what the index has, nobody has to wait.
        after_seconds = self._after_seconds if policy.deletes or not policy.updates else 0.0
        last = max(at for _, at in self._entries.values())
        return last + after_seconds - time.monotonic()

    def confirmed(self, epoch: int) -> list[Entry]:
        """Those that aren't there after a while either. Raises SourceChanged when the first reading was in another epoch."""
        while (left := self.left_seconds) > 0:
            self._pause(min(left, 1.0))
        if self._entries and epoch != self._engine.source.epoch:
            raise SourceChanged("The database is another one than before: what is gone is looked for anew.")
        return self._absent(entry for entry, _ in self._entries.values())

    def count_all(self, result: Pass) -> None:
        """Counts them, confirmed or not: nothing is sent."""
        if self._deletes:
            result.extra += len(self)
        else:
            result.kept += len(self)

    @property
    def _deletes(self) -> bool:
        with self._engine.inside() as core:
            return core.parts.policy.deletes

    def count(self, gone: list[Entry], result: Pass, *, accept: bool) -> str:
        """Counts them; why nothing of that may be sent, empty: it may."""
        if not self._deletes:
            result.kept += len(gone)
            return ""
        result.extra += len(gone)
        limit = max(_VALVE_DELETIONS, _VALVE_DELETIONS_PART * self._engine.store.count)
        if accept or len(gone) <= limit:
            return ""
        unrecorded = len(gone) - self._recorded(gone)
        if unrecorded <= limit:
            return ""
        return (
            f"{unrecorded:,} studies would be deleted from the central index, because the archive doesn't hold them: "
            "nothing of that is sent. See whether the archive is whole, then run `reconcile --accept`"
        )

    def _recorded(self, gone: list[Entry]) -> int:
        """How many have a row that says so: the archive deleted them itself, and `reconcile` alone reads no rows."""
        count = 0
        for start in range(0, len(gone), _PAGE):
            some = gone[start : start + _PAGE]
            deleted = self._outbox.deleted([entry.study_pk for entry in some])
            count += sum(entry.study_iuid in deleted for entry in some)
            self._pause(0.0)
        return count

    def hint(self, gone: list[Entry], backfill: Backfill) -> None:
        """What they are is looked at in their turn, behind live studies."""
        engine = self._engine
        for entry in gone:
            engine.wait_for_room_behind()
            with engine.inside() as core:
                uid = "" if entry.study_iuid.startswith("#") else entry.study_iuid
                core.backfills.hint(uid, entry.study_pk, engine.now(), backfill=backfill, gone=True)

"""What isn't durable yet: the changes that the next step writes, and the ledger's entries on their way (passive)."""

from __future__ import annotations

from collections import deque

from cdc_indexer.flow.backfill import Backfill
from cdc_indexer.flow.progress import Progress
from cdc_indexer.model.changes import Changes, Closing, Parking
from cdc_indexer.model.ledger import Entry
from cdc_indexer.model.version import VersionClock

__all__ = ["Results"]

#: Of so many studies, and at most twice as many, it is remembered which versions had been drawn when their entry was put.
_REMEMBERED = 5_000


class Results:
    """Collects what is to be written.

    What holds always: ``entry`` gives what the ledger will say of a study, as long as the disk may say something else.
    ``generation`` grows with everything that is to be written; what had a generation is durable once ``durable`` has it.
    """

    def __init__(self, progress: Progress, clock: VersionClock) -> None:
        self._progress = progress
        self._clock = clock
        self._changes = Changes()
        #: Taken by the writer and not durable yet: generation, what is written.
        self._writing: deque[tuple[int, Changes]] = deque()
        self._backfills: dict[str, Backfill] = {}
        #: Those of two halves, the newer ones and the ones before: when the newer are many enough, the others are forgotten.
        self._put_at: dict[str, int] = {}
        self._put_before: dict[str, int] = {}
        self._forgotten_at = 0
        self.generation = 1
        self._taken = 1
        #: Where studies go, and where the index that the ledger is about took something last; None: nothing was taken.
        self.address = ""
        self.taken_at: str | None = None
        #: Changes when the ledger begins anew, and when that is durable: what was looked up before doesn't count.
        self.ledger_epoch = 0
        #: When it began anew, by the database's clock in microseconds; 0: not in this process.
        self.ledger_began = 0

    def entry(self, key: str) -> Entry | None:
        """The entry of a study that isn't durable yet; None where the disk says it."""
        found = _entry(self._changes, key)
        if found is None:
            for _, changes in reversed(self._writing):
                if (found := _entry(changes, key)) is not None:
                    break
        return found

    @property
    def ledger_is_new(self) -> bool:
        """Whether the disk may still hold entries of a ledger that was given up."""
        return self._changes.new_ledger or any(changes.new_ledger for _, changes in self._writing)

    @property
    def pending(self) -> bool:
        """Whether something isn't durable yet."""
        return self._taken != self.generation or bool(self._writing)

    # --- what is to be written ---------------------------------------------------------------------------

    def moved(self) -> int:
        """Something of the progress or of a backfill changed; the generation to wait for."""
        self.generation += 1
        return self.generation

    def put(self, key: str, entry: Entry) -> None:
        """The new entry of a study."""
        self._changes.ledger[key] = entry
        self._changes.verified.pop(key, None)
        self.generation += 1
        if self.taken_at is None:
            self._changes.meta["ledger_taken"] = False
            if entry.version > 0 or entry.digest is not None:
                self.took()
        self._remember(key)

    def verified(self, key: str, entry: Entry) -> None:
        """The view was read: nothing but that is new in the entry of the study, which costs less to write."""
        self._changes.verified[key] = entry
        self.generation += 1
        self._remember(key)

    def _remember(self, key: str) -> None:
        self._put_at[key] = self._clock.last
        if len(self._put_at) >= _REMEMBERED:
            self._forgotten_at = max(self._put_before.values(), default=self._forgotten_at)
            self._put_before, self._put_at = self._put_at, {}

    def took(self) -> None:
        """The index has taken something: from now on the ledger is about the one at this address."""
        if self.taken_at != self.address:
            self.taken_at = self.address
            self._changes.meta |= {"ledger_taken": True, "webservice_url": self.address}

    def put_since(self, key: str, version: int) -> bool:
        """Whether the study may have got an entry after that version was drawn.

        Its own version doesn't say so: it was drawn before a reading that may have been later than another's.
        """
        put_at = self._put_at.get(key)
        if put_at is None:
            put_at = self._put_before.get(key, self._forgotten_at)
        return put_at >= version

    def park(self, parking: Parking | Closing) -> None:
        """A study is parked, or what was parked of it is closed."""
        self._changes.parking[parking.study_key] = parking
        self.generation += 1

    def set(self, name: str, value: object) -> None:
        """A value of the durable state by name."""
        self._changes.meta[name] = value
        self.generation += 1

    def begin_ledger(self, clock: int) -> None:
        """Forgets what the index was told; ``clock``: see ``Now``."""
        self.ledger_began = clock
        self._changes.ledger.clear()
        self._changes.verified.clear()
        self._changes.new_ledger = True
        self.taken_at = None
        self._changes.meta["ledger_taken"] = False
        self.ledger_epoch += 1
        self.generation += 1

    def follow(self, backfill: Backfill) -> int:
        """From now on it is told how far that backfill is."""
        self._backfills[backfill.name] = backfill
        return self.moved()

    def forget(self, name: str) -> int:
        """That backfill is done."""
        self._backfills.pop(name, None)
        self._changes.jobs[name] = None
        return self.moved()

    # --- the writer --------------------------------------------------------------------------------------

    def take(self, clock: int) -> tuple[int, Changes]:
        """What the next step writes, and the generation that is durable after it. ``clock``: see ``Now``."""
        changes, self._changes = self._changes, Changes()
        self._progress.render(changes)
        for name, backfill in self._backfills.items():
            if backfill.moved:
                changes.jobs[name] = backfill.state()
        bound = self._clock.wanted_bound(clock)
        if bound is not None:
            changes.meta["version_bound"] = bound
        self._taken = self.generation
        self._writing.append((self.generation, changes))
        return self.generation, changes

    def durable(self, generation: int) -> None:
        """Everything up to that generation is on the disk."""
        while self._writing and self._writing[0][0] <= generation:
            _, changes = self._writing.popleft()
            if (bound := changes.meta.get("version_bound")) is not None:
                self._clock.bounded(bound)
            if changes.new_ledger:
                self.ledger_epoch += 1


def _entry(changes: Changes, key: str) -> Entry | None:
    return changes.verified.get(key) or changes.ledger.get(key)

"""Changed patients: one outbox row that stands for a look at each of the patient's studies (passive).

The studies are read page by page, so that a patient with thousands of them needs no more memory than another. The row
settles after the last of them. A restart begins with the first page again: what was sent is in the ledger.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from datetime import datetime

__all__ = ["ChangedPatients", "PatientChange"]

#: How many changes may be under way. Who brings more waits, and a live study behind them in the log with him: so it is more
#: than most archives change at once. Each takes half a kilobyte.
MAX_WAITING = 50_000

#: So many changes of one patient are read together.
_TOGETHER = 100


#: Most of many changes wait for their page: a set of its own would be most of what each takes.
_NONE: frozenset[str] = frozenset()


class PatientChange:
    """A row of operation 'patient' whose studies are looked at.

    Attributes:
        open: the studies, by key, that wait or are being sent for it.
        read: whether the last page was read.
    """

    __slots__ = ("open", "patient_pk", "read", "recorded_at", "row_id")

    def __init__(self, row_id: int, recorded_at: datetime, patient_pk: int) -> None:
        self.row_id = row_id
        self.recorded_at = recorded_at
        self.patient_pk = patient_pk
        self.open: set[str] | frozenset[str] = _NONE
        self.read = False


class PatientPage:
    """The lease of a page of one patient's studies; ends in ``ChangedPatients.page_read`` or ``give_back``."""

    __slots__ = ("after_pk", "changes", "epoch", "patient_pk")

    def __init__(self, patient_pk: int, after_pk: int, changes: list[PatientChange], epoch: int) -> None:
        self.patient_pk = patient_pk
        self.after_pk = after_pk
        self.changes = changes
        self.epoch = epoch

    @property
    def row_ids(self) -> list[int]:
        """The rows that the reading has to show."""
        return [change.row_id for change in self.changes]


class ChangedPatients:
    """The changes whose studies aren't all done with, in the order in which they came."""

    def __init__(self, *, max_waiting: int = MAX_WAITING) -> None:
        self._max_waiting = max_waiting
        #: By patient: one that changed again meanwhile is read once for all of its changes.
        self._unread: OrderedDict[int, list[PatientChange]] = OrderedDict()
        self._reading: PatientPage | None = None
        #: The page after the one that was read last; its changes are those of that one.
        self._next: PatientPage | None = None
        self._again_at = 0.0
        self.open: dict[int, PatientChange] = {}

    @property
    def full(self) -> bool:
        """Whether who brings more has to wait."""
        return len(self.open) >= self._max_waiting

    def add(self, change: PatientChange) -> None:
        """One more."""
        self.open[change.row_id] = change
        self._unread.setdefault(change.patient_pk, []).append(change)

    def drop(self) -> list[PatientChange]:
        """Forgets all, since they belong to another server; gives them."""
        dropped = list(self.open.values())
        self.__init__(max_waiting=self._max_waiting)  # type: ignore[misc]
        return dropped

    def waits(self, now: float) -> bool:
        """Whether a page is to be read."""
        return self._reading is None and now >= self._again_at and bool(self._next or self._unread)

    def seconds(self, now: float) -> float | None:
        """Until a page is to be read; None when none is."""
        if self._reading is not None or not (self._next or self._unread):
            return None
        return max(self._again_at - now, 0.0)

    def take_page(self, epoch: int) -> PatientPage:
        """The page to be read next; ``waits`` has said that there is one."""
        if self._next is not None:
            page, self._next = self._next, None
            page.epoch = epoch
        else:
            patient_pk = next(iter(self._unread))
            changes = self._unread[patient_pk]
            page = PatientPage(patient_pk, 0, changes[:_TOGETHER], epoch)
        self._reading = page
        return page

    def give_back(self, page: PatientPage, again_at: float) -> None:
        """It couldn't be read, or doesn't show its rows yet."""
        if self._reading is page:
            self._reading = None
            self._again_at = again_at
            if page.after_pk:
                self._next = page
            elif page.patient_pk in self._unread:
                # Another patient's turn: the rows don't become visible in the order in which they came.
                self._unread.move_to_end(page.patient_pk)

    def page_read(self, page: PatientPage, keys: Iterable[str], last_pk: int | None) -> list[PatientChange]:
        """These of its studies are looked at now; ``last_pk`` leads to the next page, None: there is none.

        Gives the changes that are done with already.
        """
        if self._reading is not page:
            return []
        self._reading = None
        keys = list(keys)
        for change in page.changes:
            change.open = set(keys).union(change.open)
        if not page.after_pk:
            changes = self._unread[page.patient_pk]
            del changes[: len(page.changes)]
            if not changes:
                del self._unread[page.patient_pk]
        if last_pk is not None:
            self._next = PatientPage(page.patient_pk, last_pk, page.changes, page.epoch)
            return []
        for change in page.changes:
            change.read = True
        return self._done(page.changes)

    def ended(self, key: str, changes: Iterable[PatientChange]) -> list[PatientChange]:
        """That study was dealt with for these changes; gives those that are done with."""
        for change in changes:
            if isinstance(change.open, set):
                change.open.discard(key)
        return self._done(changes)

    def _done(self, changes: Iterable[PatientChange]) -> list[PatientChange]:
        # A study that was stored again between two pages is on both; and a change that another server's rows took along
        # isn't the one that has its row now.
        done = [
            change
            for change in dict.fromkeys(changes)
            if change.read and not change.open and self.open.get(change.row_id) is change
        ]
        for change in done:
            del self.open[change.row_id]
        return done

"""Which version of a study is sent at once, and which waits until the study is quiet (pure but for its lock).

A study's first version goes out as its row was recorded. Every later one takes its values from the view, read once
the study has been quiet for ``settle_seconds``, at the latest MAX_WAIT_SECONDS after the first row that waits: the triggers
read without locks, so what they record can be a moment stale, and a study that grows image by image isn't sent image by
image. The rows that a version stands for wait with it and settle with it.
"""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from cdc_indexer.flow.patients import PatientChange
from cdc_indexer.model.errors import Stopped

#: A study that never is quiet is sent this long after the first of its rows that wait.
MAX_WAIT_SECONDS = 60.0

#: Studies and rows that may wait; beyond, the oldest is sent before its time, and who brings more waits.
MAX_STUDIES = 10_000
MAX_ROWS = 50_000

#: Of so many studies that were sent or verified lately the digest is kept: the view is ahead of the binary log, and a row
#: that comes after its values were read mustn't send them again.
SENT_KEPT = 10_000


@dataclass(slots=True)
class Waiting:
    """What waits to be sent for one study; handed out by ``due`` and given back by ``done``.

    ``rows`` are (id, recorded_at) in the order in which they came; ``verify_ids`` are settled ids of a first version that
    was sent as recorded; ``digest`` is that of the JSON last sent, None when that isn't known; ``deleted``: the last row
    says that the PACS deleted the study.
    """

    key: str
    study_pk: int
    study_iuid: str = ""
    # Ten thousand of these may wait, and most of them for one thing: no empty lists.
    rows: tuple[tuple[int, datetime], ...] | list[tuple[int, datetime]] = ()
    verify_ids: tuple[int, ...] = ()
    patients: tuple[PatientChange, ...] = ()
    digest: int | None = None
    deleted: bool = False

    @property
    def ids(self) -> list[int]:
        """Of the study's own rows: those that wait, and those to be verified."""
        return [*(row_id for row_id, _ in self.rows), *self.verify_ids]


class _Study:
    """One study that is being sent, or waits."""

    __slots__ = ("at_index", "busy", "due_at", "first_at", "last_at", "queued_at", "waiting")

    def __init__(self, key: str, study_pk: int, now: float) -> None:
        self.waiting = Waiting(key, study_pk)
        self.busy = False
        #: Whether the central index has what the digest is of; not, if it rejected that.
        self.at_index = True
        self.first_at = now
        self.last_at = now
        self.due_at = now
        #: Where it stands in the queue; may be earlier than due_at, as each further row of it moves that.
        self.queued_at: float | None = None


class Versions:
    """The studies that are being sent or wait, by key (see ``study_key``). Thread-safe."""

    def __init__(
        self,
        settle_seconds: float,
        *,
        max_studies: int = MAX_STUDIES,
        max_rows: int = MAX_ROWS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settle_seconds = settle_seconds
        self._max_studies = max_studies
        self._max_rows = max_rows
        self._clock = clock
        self._studies: dict[str, _Study] = {}
        self._heap: list[tuple[float, int, str]] = []
        #: By the key's hash: ten thousand strings would take a megabyte more.
        self._sent: dict[int, int] = {}
        self._sequence = 0
        self._rows = 0
        self._idle_studies = 0
        self._stopped = False
        self._woken = False
        self._hurry = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        """How many studies are being sent or wait."""
        return len(self._studies)

    @property
    def full(self) -> bool:
        """Whether bringing more has to wait."""
        return self._idle_studies >= self._max_studies or self._rows >= self._max_rows

    def stop(self) -> None:
        """Ends every wait with Stopped."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def wake(self) -> None:
        """Ends ``wait``, this or the next: there is something else to do."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def hurry(self) -> None:
        """From now on nothing waits for quiet: the program is to end once all is sent."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()

    # --- rows come ---------------------------------------------------------------------------------------

    def begin(self, key: str, study_pk: int, *, as_recorded: bool = False, block: bool = True) -> bool:
        """Whether a first version may be sent at once: nothing of that study is being sent or waits.

        ``as_recorded``: with the values of its row, which are older than what was read from the view and sent before.
        Blocks as ``add`` does: it will wait for its verification.
        """
        with self._changed:
            self._wait_for_room(block)
            if key in self._studies or (as_recorded and hash(key) in self._sent):
                return False
            self._sent.pop(hash(key), None)
            study = self._studies[key] = _Study(key, study_pk, self._clock())
            study.busy = True
            return True

    def add(
        self,
        key: str,
        study_pk: int,
        row: tuple[int, datetime] | None = None,
        *,
        patient: PatientChange | None = None,
        deleted: bool | None = False,
        soon: bool = False,
        study_iuid: str = "",
        block: bool = True,
    ) -> None:
        """Lets a row (id, recorded_at) or a patient's change wait.

        ``deleted``: whether it says that the PACS deleted the study; None: it says nothing about that.
        ``soon``: without waiting for quiet. Blocks while too many wait (Stopped ends that), but for who empties the queue
        itself and asks ``full`` before.
        """
        with self._changed:
            self._wait_for_room(block)
            now = self._clock()
            study = self._studies.get(key)
            if study is None:
                study = self._studies[key] = _Study(key, study_pk, now)
                study.waiting.digest = self._sent.pop(hash(key), None)
                self._idle_studies += 1
            waiting = study.waiting
            if not (waiting.rows or waiting.patients):
                study.first_at = now
            study.last_at = now
            waiting.study_pk = study_pk
            waiting.study_iuid = study_iuid or waiting.study_iuid
            if deleted is not None:
                waiting.deleted = deleted
            if row is not None:
                if isinstance(waiting.rows, tuple):
                    waiting.rows = []
                waiting.rows.append(row)
                self._rows += 1
            if patient is not None:
                waiting.patients += (patient,)
                self._rows += 1
            self._schedule(study, now if soon or deleted else None)

    def _wait_for_room(self, block: bool) -> None:
        while block and self.full and not self._stopped:
            self._changed.wait()
        if self._stopped:
            raise Stopped

    def restore(self, key: str, study_pk: int, row_id: int, digest: int | None) -> None:
        """A first version that was sent before a restart, and still is to be verified.

        It waits for ``release_restored``: later rows of the study that weren't settled before the restart have to join it,
        or the same values would be sent for it and for them.
        """
        with self._changed:
            study = self._studies.get(key)
            if study is None:
                study = self._studies[key] = _Study(key, study_pk, self._clock())
                self._idle_studies += 1
                self._schedule(study, math.inf)
            if row_id not in study.waiting.verify_ids:
                study.waiting.verify_ids += (row_id,)
            if not study.waiting.rows:
                study.waiting.digest = digest

    def release_restored(self) -> None:
        """The table has been read: what was restored and has no later rows is due."""
        with self._changed:
            now = self._clock()
            for study in self._studies.values():
                if study.due_at == math.inf:
                    self._schedule(study, now)

    # --- rows go -----------------------------------------------------------------------------------------

    def due(self, limit: int) -> list[Waiting]:
        """Up to ``limit`` studies whose time has come; they are being sent until ``done`` is called for each."""
        with self._changed:
            now = self._clock()
            found: list[Waiting] = []
            heap = self._heap
            # Asked once: if the first one taken ended it, whoever brings more would have to wait again after one study.
            early = self._hurry or self.full
            while heap and len(found) < limit:
                queued_at, _, key = heap[0]
                if queued_at > now and not early:
                    break
                heapq.heappop(heap)
                study = self._studies.get(key)
                if study is None or study.queued_at != queued_at:
                    continue
                study.queued_at = None
                if study.busy:
                    continue
                if study.due_at > now and not early:
                    self._queue(study)
                    continue
                study.busy = True
                found.append(self._take(study))
            return found

    def known(self) -> list[Waiting]:
        """At the end: studies with waiting rows of which it is known what was last sent; ``done`` gives each back."""
        with self._changed:
            found = []
            for study in self._studies.values():
                waiting = study.waiting
                if not study.busy and waiting.digest is not None and (waiting.rows or waiting.patients):
                    study.busy = True
                    found.append(self._take(study))
            return found

    def _take(self, study: _Study) -> Waiting:
        taken = study.waiting
        was_full = self.full
        self._idle_studies -= 1
        self._rows -= len(taken.rows) + len(taken.patients)
        study.waiting = Waiting(taken.key, taken.study_pk, taken.study_iuid)
        if was_full:
            self._changed.notify_all()
        return taken

    def done(
        self, key: str, digest: int | None, verify_ids: tuple[int, ...] = (), *, at_index: bool | None = None
    ) -> None:
        """What was begun or due has been dealt with; ``digest`` is that of what was sent last.

        ``verify_ids``: it was sent as recorded, and is to be compared with the view when the study is quiet.
        ``at_index``: whether the central index has taken that; None: nothing was sent.
        """
        with self._changed:
            study = self._studies[key]
            study.busy = False
            if at_index is not None:
                study.at_index = at_index
            waiting = study.waiting
            waiting.digest = digest
            waiting.verify_ids += verify_ids
            if waiting.rows or waiting.patients or waiting.verify_ids:
                self._idle_studies += 1
                self._schedule(study, self._clock() if waiting.deleted else None)
            else:
                del self._studies[key]
                if study.at_index and digest is not None:
                    self._sent[hash(key)] = digest
                    if len(self._sent) > SENT_KEPT:
                        del self._sent[next(iter(self._sent))]

    def wait(self, timeout_seconds: float) -> None:
        """Waits until a study may be due, something changed, or the time is over."""
        with self._changed:
            if self._stopped:
                return
            if self._woken or (self._heap and (self._hurry or self.full)):
                timeout_seconds = 0.0
            elif self._heap:
                timeout_seconds = min(timeout_seconds, self._heap[0][0] - self._clock())
            if timeout_seconds > 0:
                self._changed.wait(timeout_seconds)
            self._woken = False

    def _schedule(self, study: _Study, at: float | None) -> None:
        if at is None:
            at = study.last_at + self._settle_seconds
            if study.waiting.rows or study.waiting.patients:
                at = min(at, study.first_at + MAX_WAIT_SECONDS)
        study.due_at = at
        if not study.busy and (study.queued_at is None or at < study.queued_at):
            self._queue(study)

    def _queue(self, study: _Study) -> None:
        study.queued_at = study.due_at
        self._sequence += 1
        heapq.heappush(self._heap, (study.due_at, self._sequence, study.waiting.key))
        # Only a new head of the queue concerns who waits for one to be due.
        if self._heap[0][1] == self._sequence or self.full or self._hurry:
            self._changed.notify_all()

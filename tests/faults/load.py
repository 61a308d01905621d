"""An archive at work while things break around it: stores studies one by one, and lets earlier ones grow."""

from __future__ import annotations

import itertools
import random
import threading
from collections import deque
from contextlib import suppress

import pymysql

from tests.pacs import Pacs, new_uid

#: What a client of the database meets when the server dies under it.
DATABASE_ERRORS = (pymysql.err.Error, OSError)

#: So many of the newest studies still get images.
_GROWING = 50


class Load:
    """Use as a context manager; the load runs within the block, in a thread with a connection of its own.

    A study only ever grows, so that an older version that arrives after a newer one can be told by its images.

    Attributes:
        committed: the study_iuids of which the database has said that they are stored, in order.
        attempted: these, and those of which nobody knows because the database died meanwhile.
    """

    def __init__(
        self, pacs: Pacs, *, pause_seconds: float = 0.005, seed: int = 0, renames: float = 0.0
    ) -> None:
        self._server, self._name = pacs.server, pacs.name
        self._pause_seconds = pause_seconds
        self._rng = random.Random(seed)
        #: How often a patient, and with it all of its studies, gets another name, which it never had before.
        self._renames = renames
        self._names = itertools.count(1)
        #: Of the descriptions, so that one that comes late is seen.
        self._texts = itertools.count(1)
        self._growing: deque[tuple[int, int]] = deque(maxlen=_GROWING)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name="load", daemon=True)
        self.committed: list[str] = []
        self.attempted: list[str] = []

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _work(self) -> None:
        pacs: Pacs | None = None
        while not self._end.wait(self._pause_seconds):
            try:
                pacs = pacs or Pacs(self._server, self._name)
                self._one(pacs)
            except DATABASE_ERRORS:
                if pacs is not None:
                    with suppress(*DATABASE_ERRORS):
                        pacs.close()
                pacs = None
                self._end.wait(0.05)
        if pacs is not None:
            with suppress(*DATABASE_ERRORS):
                pacs.close()

    def _one(self, pacs: Pacs) -> None:
        if self._rng.random() < self._renames:
            pacs.rename_patient(self._rng.randint(1, 20), f"PEÑA^{next(self._names)}")
            return
        if self._growing and self._rng.random() < 0.4:
            study_pk, images = self._growing.popleft()
            if self._rng.random() < 0.3:
                self._growing.append((study_pk, images))
                pacs.edit_study(study_pk, description=f"V{next(self._texts)}", study_datetime=None)
                return
            images += self._rng.randint(1, 50)
            pacs.update_counts(study_pk, 1 + images // 100, images, "CT")
            self._growing.append((study_pk, images))
            return
        study_iuid = new_uid()
        self.attempted.append(study_iuid)
        study_pk = pacs.store_study(study_iuid, patient_id=f"{self._rng.randint(1, 20)}-K")
        self.committed.append(study_iuid)
        self._growing.append((study_pk, 0))

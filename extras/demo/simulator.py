"""Stores studies the way a DCM4CHEE 2.x archive does: its statements, in its order, in transactions cut as it cuts them.

One transaction for a study's first image: the patient if it is new, the study without its patient and with nothing counted,
its patient by UPDATE, a series and an instance. Further series follow, and a moment later (an archive takes
a minute) the counts and the modality. Now and then a name is corrected, and two patients are merged.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import pymysql

from extras.demo.sample import SampleStudy
from extras.demo.server import Connection

STUDIES_PER_SECOND = 5.0
_RENAMES_EVERY = 25
_MERGES_EVERY = 40
#: Rows in series and instance; the counts in study are the real ones.
_SERIES_AT_MOST = 8
_COUNTED_AFTER_SECONDS = (0.2, 0.6)


@dataclass
class _Growing:
    """A study of which images still come in, and when its next series does."""

    pk: int
    study: SampleStudy
    series_left: int
    due: float


class Simulator:
    """One thread that stores studies until it is told to stop; then it completes those that it has begun.

    Attributes:
        committed_at: the moment (time.time()) just before the COMMIT of each new study, by study_iuid.
        changed: how many later changes were committed: counts, names, merges.
        error: what ended it early.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        studies: Sequence[SampleStudy],
        *,
        per_second: float = STUDIES_PER_SECOND,
        rng: random.Random | None = None,
    ) -> None:
        self.committed_at: dict[str, float] = {}
        self.changed = 0
        self.error: pymysql.err.Error | None = None
        self._connection = connect()
        self._studies = _endless(studies)
        self._pause_seconds = 1 / per_second
        self._rng = rng or random.Random()
        self._growing: list[_Growing] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="simulator", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns once every study that was begun is complete."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        try:
            with self._connection:
                self._store_until_stopped()
        except pymysql.err.Error as error:
            self.error = error

    def _store_until_stopped(self) -> None:
        next_study = time.monotonic()
        for number in itertools.count(1):
            self._store(next(self._studies))
            if number % _RENAMES_EVERY == 0:
                self._rename()
            if number % _MERGES_EVERY == 0:
                self._merge()
            next_study += self._pause_seconds
            while not self._stopping.wait(max(0.0, min(next_study, self._next_due()) - time.monotonic())):
                if time.monotonic() >= next_study:
                    break
                self._grow(time.monotonic())
            if self._stopping.is_set():
                break
        while self._growing:
            self._grow(float("inf"))

    def _next_due(self) -> float:
        return min((growing.due for growing in self._growing), default=float("inf"))

    # --- the archive's transactions ----------------------------------------------------------------------

    def _insert(self, sql: str, *values: object) -> int:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, values)
            return int(cursor.lastrowid)

    def _one(self, sql: str, *values: object) -> int | None:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, values)
            row = cursor.fetchone()
        return int(row[0]) if row else None

    def _store(self, study: SampleStudy) -> None:
        """The first image arrives."""
        self._connection.begin()
        patient_pk = self._one(
            "SELECT pk FROM patient WHERE pat_id = %s AND merge_fk IS NULL LIMIT 1", study.patient_id
        )
        if patient_pk is None:
            patient_pk = self._insert(
                "INSERT INTO patient (pat_id, pat_name, created_time, updated_time) VALUES (%s, %s, NOW(), NOW())",
                study.patient_id,
                study.patient_name,
            )
        study_pk = self._insert(
            "INSERT INTO study (study_iuid, study_datetime, study_desc, mods_in_study, num_series, num_instances,"
            " availability, study_status, created_time, updated_time)"
            " VALUES (%s, %s, %s, '', 0, 0, 0, 0, NOW(), NOW())",
            study.study_iuid,
            study.study_datetime,
            study.study_description,
        )
        self._insert("UPDATE study SET patient_fk = %s WHERE pk = %s", patient_pk, study_pk)
        self._add_series(study_pk, study)
        # Before, for the study may arrive before the server has told us that it is committed.
        self.committed_at[study.study_iuid] = time.time()
        self._connection.commit()
        series_left = min(study.study_series, _SERIES_AT_MOST) - 1
        self._growing.append(_Growing(study_pk, study, series_left, self._later(series_left)))

    def _later(self, series_left: int) -> float:
        """When the next series comes, or the archive has counted."""
        shortest, longest = _COUNTED_AFTER_SECONDS
        return time.monotonic() + (0.1 if series_left else self._rng.uniform(shortest, longest))

    def _add_series(self, study_pk: int, study: SampleStudy) -> None:
        series_pk = self._insert(
            "INSERT INTO series (study_fk, series_iuid, modality, num_instances, availability, series_status, created_time)"
            " VALUES (%s, %s, %s, 1, 0, 0, NOW())",
            study_pk,
            _new_uid(),
            self._rng.choice(study.study_modality.split("\\")),
        )
        self._insert(
            "INSERT INTO instance (series_fk, sop_iuid, availability, inst_status, all_attrs, commitment, created_time)"
            " VALUES (%s, %s, 0, 0, 1, 0, NOW())",
            series_pk,
            _new_uid(),
        )

    def _grow(self, now: float) -> None:
        """The next image of each study for which it is time; counts and modality after its last."""
        for growing in [growing for growing in self._growing if growing.due <= now]:
            study = growing.study
            self._connection.begin()
            if growing.series_left:
                self._add_series(growing.pk, study)
                growing.series_left -= 1
                growing.due = self._later(growing.series_left)
            else:
                self._insert(
                    "UPDATE study SET num_series = %s, num_instances = %s, mods_in_study = %s, updated_time = NOW()"
                    " WHERE pk = %s",
                    study.study_series,
                    study.study_instances,
                    study.study_modality,
                    growing.pk,
                )
                self._growing.remove(growing)
                self.changed += 1
            self._connection.commit()

    def _rename(self) -> None:
        """The name of a patient is corrected: one row for the trigger, as many studies as the patient has."""
        patient_pk = self._some_patient()
        self._insert(
            "UPDATE patient SET pat_name = CONCAT(SUBSTRING_INDEX(pat_name, '^', 2), '^', %s), updated_time = NOW()"
            " WHERE pk = %s",
            self._rng.choice(("SOFÍA", "JESÚS", "ÁNGEL", "INÉS")),
            patient_pk,
        )
        self.changed += 1

    def _merge(self) -> None:
        """A patient turns out to be another one: the studies move, the patient stays and points to the other."""
        loser, winner = self._some_patient(), self._some_patient()
        if loser == winner:
            return
        self._connection.begin()
        self._insert(
            "UPDATE study SET patient_fk = %s, updated_time = NOW() WHERE patient_fk = %s", winner, loser
        )
        self._insert("UPDATE patient SET merge_fk = %s, updated_time = NOW() WHERE pk = %s", winner, loser)
        self._connection.commit()
        self.changed += 1

    def _some_patient(self) -> int:
        last = self._one("SELECT MAX(pk) FROM patient")
        assert last is not None
        start = self._rng.randint(1, last)
        pk = self._one(
            "SELECT pk FROM patient WHERE pk <= %s AND merge_fk IS NULL ORDER BY pk DESC LIMIT 1", start
        )
        return pk if pk is not None else last


def _new_uid() -> str:
    return f"2.25.{uuid.uuid4().int}"


def _endless(studies: Sequence[SampleStudy]) -> Iterator[SampleStudy]:
    """The studies, made now; after the last of them the same again under new UIDs."""
    for turn in itertools.count():
        for study in studies:
            yield study._replace(
                study_iuid=_new_uid() if turn else study.study_iuid,
                study_datetime=f"{datetime.now():%Y-%m-%d %H:%M:%S}",
            )

"""The real studies of the demo (ATTRIBUTION.md says where they come from; the patients are invented)."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from extras.demo.server import Connection

_FILE = Path(__file__).with_name("studies.csv.gz")
_ROWS_PER_STATEMENT = 1000


class SampleStudy(NamedTuple):
    """One study as the archive would hold it; absent values are None."""

    patient_id: str
    patient_name: str
    study_iuid: str
    #: YYYY-MM-DD HH:MM:SS
    study_datetime: str | None
    study_description: str | None
    #: such as CT, or CT\\PT
    study_modality: str
    study_series: int
    study_instances: int


def read_sample() -> list[SampleStudy]:
    """All of them, always in the same order, which means nothing."""
    with gzip.open(_FILE, "rt", encoding="utf-8", newline="") as text:
        return [
            SampleStudy(
                row["patient_id"],
                row["patient_name"],
                row["study_iuid"],
                row["study_datetime"] or None,
                row["study_description"] or None,
                row["study_modality"],
                int(row["study_series"]),
                int(row["study_instances"]),
            )
            for row in csv.DictReader(text)
        ]


def load(connection: Connection, studies: Sequence[SampleStudy]) -> None:
    """Puts studies into an archive's tables, complete, as if they had been stored long ago. In one transaction."""
    patients = list(dict.fromkeys((study.patient_id, study.patient_name) for study in studies))
    connection.begin()
    with connection.cursor() as cursor:
        for start in range(0, len(patients), _ROWS_PER_STATEMENT):
            cursor.executemany(
                "INSERT INTO patient (pat_id, pat_name, created_time, updated_time) VALUES (%s, %s, NOW(), NOW())",
                patients[start : start + _ROWS_PER_STATEMENT],
            )
        cursor.execute("SELECT pat_id, MIN(pk) FROM patient GROUP BY pat_id")
        pks = dict(cursor.fetchall())
        for start in range(0, len(studies), _ROWS_PER_STATEMENT):
            cursor.executemany(
                "INSERT INTO study (patient_fk, study_iuid, study_datetime, study_desc, mods_in_study, num_series,"
                " num_instances, availability, study_status, created_time, updated_time)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, 0, 0, NOW(), NOW())",
                [
                    (
                        pks[study.patient_id],
                        study.study_iuid,
                        study.study_datetime,
                        study.study_description,
                        study.study_modality,
                        study.study_series,
                        study.study_instances,
                    )
                    for study in studies[start : start + _ROWS_PER_STATEMENT]
                ],
            )
    connection.commit()

"""What the tests of extras/*.sql share: the scripts cut into statements, and an archive's sessions by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ADD = (ROOT / "extras/add_indexer.sql").read_text()
REMOVE = (ROOT / "extras/remove_indexer.sql").read_text()
SCHEMA = (ROOT / "tests/schemas/dcm4chee2.sql").read_text()
OLD_CLIENT = (ROOT / "tests/schemas/old_client.sql").read_text()

#: The columns of the view, in its order, and so of the outbox without id, operation and recorded_at.
VIEW_COLUMNS = (
    "patient_pk",
    "patient_id",
    "patient_name",
    "study_pk",
    "study_iuid",
    "study_datetime",
    "study_description",
    "study_modality",
    "study_series",
    "study_instances",
    "accession_no",
    "patient_id_issuer",
)


def prefixes(script: str) -> list[str]:
    """The script up to the end of its first statement, of its second, and so on, as the client would cut it."""
    ends: list[str] = []
    done: list[str] = []
    delimiter = ";"
    for line in script.splitlines(keepends=True):
        done.append(line)
        if found := re.match(r"DELIMITER (\S+)", line):
            delimiter = found.group(1)
        elif not line.startswith("--") and line.rstrip().endswith(delimiter):
            ends.append("".join(done))
    return ends


class Session:
    """One connection of the archive: statements in, rows out."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def __call__(self, sql: str, *args: object) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, args or None)
            return list(cursor.fetchall())

    def inserted(self, sql: str, *args: object) -> int:
        """Runs an INSERT and returns the key it was given."""
        with self.connection.cursor() as cursor:
            cursor.execute(sql, args or None)
            return int(cursor.lastrowid)

    def patient(
        self, pat_id: str | None = "1-9", name: str | None = "PEÑA^JOSÉ", issuer: str | None = None
    ) -> int:
        return self.inserted(
            "INSERT INTO patient (pat_id, pat_name, pat_id_issuer) VALUES (%s, %s, %s)", pat_id, name, issuer
        )

    def study(self, patient_pk: int, study_iuid: str, **columns: object) -> int:
        """Stores a study as DCM4CHEE 2.x does: without its patient first, the patient in the same transaction."""
        names = ["study_iuid", "num_series", "num_instances", "availability", "study_status", *columns]
        values: Sequence[object] = [study_iuid, 0, 0, 0, 0, *columns.values()]
        self("START TRANSACTION")
        study_pk = self.inserted(
            f"INSERT INTO study ({', '.join(names)}) VALUES ({', '.join(['%s'] * len(names))})", *values
        )
        self("UPDATE study SET patient_fk = %s WHERE pk = %s", patient_pk, study_pk)
        self("COMMIT")
        return study_pk

    def view(self) -> list[tuple[Any, ...]]:
        return self(f"SELECT {', '.join(VIEW_COLUMNS)} FROM indexer_study ORDER BY study_pk")

    def outbox(self) -> list[tuple[Any, ...]]:
        """(operation, *VIEW_COLUMNS) of each row, oldest first."""
        return self(
            f"SELECT operation, {', '.join(VIEW_COLUMNS)} FROM study_service ORDER BY recorded_at, id"
        )

    def operations(self) -> list[tuple[str, int]]:
        """(operation, study_pk) of each row, oldest first."""
        return [(row[0], row[4]) for row in self.outbox()]

    def close(self) -> None:
        self.connection.close()

"""A DCM4CHEE 2.x archive as the database sees it: its tables, and its transactions in the archive's own order."""

from __future__ import annotations

import contextlib
import itertools
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pymysql
from pymysql.cursors import Cursor

from tests.privacy import privacy
from tests.servers import Connection, Server

_ROOT = Path(__file__).resolve().parent.parent
SCHEMA = _ROOT / "tests/schemas/dcm4chee2.sql"
ADD_INDEXER = _ROOT / "extras/add_indexer.sql"

_ROWS_PER_STATEMENT = 1000
#: No component of a UID may begin with 0.
_uids = itertools.count(10_000_001)


def new_uid() -> str:
    """A DICOM UID that no one else has (2.25: from a UUID) and that sorts by the time it was made."""
    return f"2.25.{next(_uids)}{uuid.uuid4().int % 10**26:026d}"


class Pacs:
    """One archive in one database. It has one connection; threads take one Pacs each: `Pacs(pacs.server, pacs.name)`.

    A lost connection is made again at the next call, so that it goes on after a restart of the server.

    Attributes:
        server, name: where it is; `name` is the database.
        user, password: the account of the service, with the contract's rights on this database and no others.
    """

    user = "indexer"
    password = "the-indexers-password-1"
    #: What makes the archive's tables, and what makes ours; another archive has its own.
    schemas: tuple[Path, ...] = (SCHEMA,)
    script = ADD_INDEXER
    charset = "latin1"

    def __init__(self, server: Server, name: str) -> None:
        self.server = server
        self.name = name
        self._connection = server.connect(name)
        self._in_transaction = False

    @classmethod
    def create(cls, server: Server, name: str | None = None, *, charset: str = "") -> Pacs:
        """A new database with the archive's tables, extras/add_indexer.sql applied, and the service's account."""
        pacs = cls.create_bare(server, name, charset=charset)
        server.run_script(cls.script.read_text(), pacs.name)
        pacs.grant()
        return pacs

    @classmethod
    def create_bare(cls, server: Server, name: str | None = None, *, charset: str = "") -> Pacs:
        """A new database with the archive's tables, and nothing of the indexer."""
        name = name or f"pacs_{uuid.uuid4().hex[:12]}"
        server.create_database(name, charset or cls.charset)
        for schema in cls.schemas:
            server.run_script(schema.read_text(), name)
        return cls(server, name)

    def grant(self) -> None:
        """Makes the service's account with the rights of the contract (again, if a test took them away)."""
        account = f"'{self.user}'@'localhost'"
        self.execute(f"CREATE USER IF NOT EXISTS {account}")
        self.execute(f"ALTER USER {account} IDENTIFIED BY '{self.password}'")
        self.execute(f"GRANT SELECT ON `{self.name}`.study_service TO {account}")
        self.execute(f"GRANT SELECT ON `{self.name}`.indexer_study TO {account}")
        self.execute(f"GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {account}")

    def destroy(self) -> None:
        """Drops the database and the rights of the account on it."""
        self.close()
        self.server.drop_database(self.name)
        granted = self.server.execute(
            "SELECT Table_name, Host FROM mysql.tables_priv WHERE Db = %s AND User = %s",
            (self.name, self.user),
        )
        for table, host in granted:
            self.server.execute(f"REVOKE SELECT ON `{self.name}`.`{table}` FROM '{self.user}'@'{host}'")

    def close(self) -> None:
        if self._connection.open:
            self._connection.close()

    def connect(self, **options: Any) -> Connection:
        """A connection of one's own to the database, as root; options as Server.connect."""
        return self.server.connect(self.name, **options)

    def execute(self, sql: str, args: Any = None) -> list[tuple[Any, ...]]:
        """Runs one statement as root, committed at once unless within `transaction`. Returns its rows."""
        with self._cursor() as cursor:
            cursor.execute(sql, args)
            return list(cursor.fetchall())

    def _cursor(self) -> Cursor:
        # A new connection never in a transaction: what is left of it would be committed without its beginning.
        if not self._in_transaction:
            self._reconnect_if_lost()
        return self._connection.cursor()

    def _reconnect_if_lost(self) -> None:
        try:
            self._connection.ping(reconnect=False)
        except pymysql.err.Error:
            self.close()
            self._connection = self.server.connect(self.name)

    def _insert(self, table: str, **columns: Any) -> int:
        """Inserts one row and returns its primary key."""
        placeholders = ", ".join(["%s"] * len(columns))
        with self._cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({placeholders})", list(columns.values())
            )
            return int(cursor.lastrowid)

    @contextlib.contextmanager
    def transaction(self, commit: bool = True) -> Iterator[None]:
        """What is done within commits together; or not at all, after an exception or with commit=False.

        Within another transaction it is a part of that one.
        """
        if self._in_transaction:
            yield
            return
        self._reconnect_if_lost()
        self._connection.begin()
        self._in_transaction = True
        try:
            yield
        except BaseException:
            if self._connection.open:
                self._connection.rollback()
            raise
        else:
            if commit:
                self._connection.commit()
            else:
                self._connection.rollback()
        finally:
            self._in_transaction = False

    def add_patient(self, patient_id: str | None, name: str | None, issuer: str | None = None) -> int:
        """A patient without studies. Returns patient.pk."""
        privacy.add_patient(patient_id)
        privacy.add_patient(name)
        return self._insert("patient", pat_id=patient_id, pat_id_issuer=issuer, pat_name=name)

    def store_study(
        self,
        study_iuid: str | None = None,
        *,
        patient_pk: int | None = None,
        patient_id: str | None = "26267267-K",
        patient_name: str | None = "PEÑA^JOSÉ",
        study_datetime: datetime | str | None = "2024-05-06 07:08:09",
        description: str | None = "TÓRAX",
        accession_no: str | None = None,
        commit: bool = True,
    ) -> int:
        """The first image of a study arrives. Returns study.pk.

        One transaction, in the archive's order: the patient, if there is none with that patient_id (or give its
        patient_pk); the study without its patient, with counts 0 and no modality; its patient by UPDATE; one series
        and one instance. With commit=False it is rolled back at the end.
        """
        with self.transaction(commit):
            if patient_pk is None:
                known = self.execute(
                    "SELECT pk FROM patient WHERE pat_id <=> %s ORDER BY pk LIMIT 1", (patient_id,)
                )
                patient_pk = known[0][0] if known else self.add_patient(patient_id, patient_name)
            study_pk = self._insert(
                "study",
                study_iuid=study_iuid or new_uid(),
                study_datetime=study_datetime,
                study_desc=description,
                accession_no=accession_no,
                mods_in_study="",
                num_series=0,
                num_instances=0,
                availability=0,
                study_status=0,
            )
            self.execute("UPDATE study SET patient_fk = %s WHERE pk = %s", (patient_pk, study_pk))
            series_pk = self._insert_series(study_pk)
            self._insert_instance(series_pk)
        return study_pk

    def _insert_series(self, study_pk: int, **columns: object) -> int:
        return self._insert(
            "series",
            study_fk=study_pk,
            series_iuid=new_uid(),
            num_instances=0,
            availability=0,
            series_status=0,
            **columns,
        )

    def _insert_instance(self, series_pk: int) -> None:
        self._insert(
            "instance",
            series_fk=series_pk,
            sop_iuid=new_uid(),
            availability=0,
            inst_status=0,
            all_attrs=1,
            commitment=0,
        )

    def update_counts(self, study_pk: int, series: int, instances: int, modality: str | None) -> None:
        """About a minute later: the archive has counted. `modality` is such as "CT" or "CT\\\\PT"."""
        self.execute(
            "UPDATE study SET num_series = %s, num_instances = %s, mods_in_study = %s WHERE pk = %s",
            (series, instances, modality, study_pk),
        )

    def store_image(self, study_pk: int, series_pk: int | None = None, modality: str = "CT") -> int:
        """One more image, in a new series if none is named; the archive counts it at once. Returns series.pk."""
        with self.transaction():
            if series_pk is None:
                series_pk = self._insert_series(study_pk, modality=modality)
            self._insert_instance(series_pk)
            ((series, instances),) = self.execute(
                "SELECT COUNT(DISTINCT r.pk), COUNT(*) FROM series r JOIN instance o ON o.series_fk = r.pk"
                " WHERE r.study_fk = %s",
                (study_pk,),
            )
            self.update_counts(study_pk, series, instances, modality)
        return series_pk

    def rename_patient(self, patient_pk: int, name: str | None) -> None:
        privacy.add_patient(name)
        self.execute("UPDATE patient SET pat_name = %s WHERE pk = %s", (name, patient_pk))

    def change_patient_id(self, patient_pk: int, patient_id: str, issuer: str | None = None) -> None:
        self.execute(
            "UPDATE patient SET pat_id = %s, pat_id_issuer = %s WHERE pk = %s",
            (patient_id, issuer, patient_pk),
        )

    def edit_study(self, study_pk: int, *, description: str, study_datetime: str | None) -> None:
        """Somebody corrects the description and the date."""
        self.execute(
            "UPDATE study SET study_desc = %s, study_datetime = %s WHERE pk = %s",
            (description, study_datetime, study_pk),
        )

    def move_study(self, study_pk: int, patient_pk: int) -> None:
        """The study goes to another patient, as when two patients are merged."""
        self.execute("UPDATE study SET patient_fk = %s WHERE pk = %s", (patient_pk, study_pk))

    def delete_study(self, study_pk: int) -> None:
        """Deletes from the leaves up, in one transaction: no foreign key cascades."""
        with self.transaction():
            self.execute(
                "DELETE i FROM instance i JOIN series s ON i.series_fk = s.pk WHERE s.study_fk = %s",
                (study_pk,),
            )
            self.execute("DELETE FROM series WHERE study_fk = %s", (study_pk,))
            self.execute("DELETE FROM study WHERE pk = %s", (study_pk,))

    def store_studies(self, what: int | list[str]) -> list[str]:
        """Many studies at once, a patient each, without series and instances: so many, or these study_iuids. Returns them.

        Fast, with the triggers on, a thousand studies a transaction; complete at once, so that each leaves one row.
        """
        study_iuids = [new_uid() for _ in range(what)] if isinstance(what, int) else what
        for start in range(0, len(study_iuids), _ROWS_PER_STATEMENT):
            some = study_iuids[start : start + _ROWS_PER_STATEMENT]
            with self.transaction(), self._cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO patient (pat_id, pat_name) VALUES (%s, %s)",
                    [(f"{start + i}-K", f"NÚÑEZ^MARÍA {start + i}") for i in range(len(some))],
                )
                # One INSERT of many rows has consecutive keys, of which the server tells the first.
                patient_pk = int(cursor.lastrowid)
                cursor.executemany(
                    "INSERT INTO study (patient_fk, study_iuid, study_datetime, study_desc, mods_in_study, num_series,"
                    " num_instances, availability, study_status) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
                    [
                        (patient_pk + i, study_iuid, "2024-05-06 07:08:09", "TÓRAX", "CT", 1, 1, 0, 0)
                        for i, study_iuid in enumerate(some)
                    ],
                )
        return study_iuids

    def insert_outbox_rows(
        self, count: int, one_transaction: bool = True, operation: str = "stored"
    ) -> list[str]:
        """Writes rows straight into study_service, each of a study of its own. Returns their study_iuids in that order.

        In one transaction, a thousand rows a statement; or each row in a transaction of its own.
        """
        # Nothing but placeholders, so that PyMySQL makes one statement of many rows.
        sql = (
            "INSERT INTO study_service (operation, patient_pk, patient_id, patient_name, study_pk, study_iuid,"
            " study_datetime, study_description, study_modality, study_series, study_instances, recorded_at)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
        )
        pk, now = self.execute(
            "SELECT COALESCE(MAX(study_pk), 1000000) + 1, UTC_TIMESTAMP(6) FROM study_service"
        )[0]
        study_iuids = [new_uid() for _ in range(count)]
        rows = [
            (
                operation,
                pk + i,
                "26267267-K",
                "PEÑA^JOSÉ",
                pk + i,
                study_iuid,
                "2024-05-06 07:08:09",
                "TÓRAX",
                "CT",
                1,
                1,
                now,
            )
            for i, study_iuid in enumerate(study_iuids)
        ]
        step = _ROWS_PER_STATEMENT if one_transaction else 1
        with self.transaction() if one_transaction else contextlib.nullcontext(), self._cursor() as cursor:
            for start in range(0, count, step):
                cursor.executemany(sql, rows[start : start + step])
        return study_iuids

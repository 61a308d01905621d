"""Reads the outbox (table ``study_service``) and the view ``indexer_study``: by key and by time, never the whole.

Every query is on its own, takes no lock, and is bounded by a page. One object belongs to one thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pymysql
from pymysql.cursors import Cursor, DictCursor

from cdc_indexer.model.study import OutboxRow
from cdc_indexer.source.connection import connect
from cdc_indexer.source.errors import translate

if TYPE_CHECKING:
    from cdc_indexer.model.settings import DatabaseSettings

TABLE = "study_service"
VIEW = "indexer_study"

#: So many ids are asked for in one statement.
_IDS = 1000

#: A place in the order of recording: (recorded_at, id).
Mark = tuple[datetime, int]


@dataclass(frozen=True, slots=True)
class StudyPage:
    """A page of the view for `initial`, and the outbox rows that the same snapshot held of its studies.

    ``rows`` by study_pk: (id, recorded_at) of the 'stored' and 'changed' ones.
    """

    studies: list[Mapping[str, object]]
    rows: Mapping[int, list[tuple[int, datetime]]]


class Outbox:
    """One session for reading; connects when it is first needed and again after an error.

    Every method raises SourceError when the database can't be read, SchemaError when table or view are missing.
    """

    def __init__(self, database: DatabaseSettings) -> None:
        self._database = database
        self._connection: Any = None

    def close(self) -> None:
        """Lets go of the connection; the next use opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except (pymysql.Error, OSError):
                connection._force_close()

    # --- the outbox by time ------------------------------------------------------------------------------

    def now(self) -> datetime:
        """The server's clock, naive UTC: what recorded_at is measured by."""
        with self._cursor() as cursor:
            cursor.execute("SELECT UTC_TIMESTAMP(6)")
            (moment,) = cursor.fetchone()
        return moment  # type: ignore[no-any-return]

    def ids_after(
        self,
        after: Mark,
        limit: int,
        leave_out: Sequence[tuple[int, int]] = (),
        not_after: datetime | None = None,
    ) -> list[Mark]:
        """(recorded_at, id) of up to ``limit`` rows after ``after``, in that order, uncommitted ones too.

        Uncommitted ones, because a row that is recorded but not yet visible has to hold ``until`` back. Only the index
        on recorded_at is read. ``leave_out``: intervals of ids that the server shall skip.
        """
        condition, arguments = self._window(after, leave_out, not_after)
        with self._cursor() as cursor:
            # For the next statement only: needs no right of its own, and takes no lock.
            cursor.execute("SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")
            cursor.execute(
                f"SELECT recorded_at, id FROM {TABLE} WHERE {condition} ORDER BY recorded_at, id LIMIT %s",  # noqa: S608
                (*arguments, limit),
            )
            return list(cursor.fetchall())

    def rows_after(
        self, after: Mark, limit: int, leave_out: Sequence[tuple[int, int]] = ()
    ) -> list[OutboxRow]:
        """Up to ``limit`` committed rows after ``after`` = (recorded_at, id), in that order."""
        condition, arguments = self._window(after, leave_out, None)
        return self._rows(f"{condition} ORDER BY recorded_at, id LIMIT %s", (*arguments, limit))

    def rows(self, ids: Sequence[int]) -> list[OutboxRow]:
        """The committed rows among ``ids``, in the order in which they were recorded."""
        if not ids:
            return []
        return self._rows(f"id IN ({_places(ids)}) ORDER BY recorded_at, id", tuple(ids))

    def rows_between(self, first_id: int, last_id: int, limit: int) -> list[OutboxRow]:
        """Up to ``limit`` rows with ids in that closed interval, by id."""
        return self._rows("id BETWEEN %s AND %s ORDER BY id LIMIT %s", (first_id, last_id, limit))

    def unseen(self, ids: Sequence[int]) -> set[int]:
        """Those among ``ids`` whose transaction can't be seen yet, though the binary log has it.

        A server logs a transaction before it ends it: an instant before, or, with semi-synchronous replication, until
        another server has it. Rows that aren't there any more are not among them.
        """
        unseen: set[int] = set()
        for start in range(0, len(ids), _IDS):
            some = ids[start : start + _IDS]
            if missing := set(some).difference(self._ids_among(some)):
                unseen.update(self._ids_among(list(missing), uncommitted=True))
        return unseen

    def _ids_among(self, ids: Sequence[int], *, uncommitted: bool = False) -> list[int]:
        with self._cursor() as cursor:
            if uncommitted:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")
            cursor.execute(f"SELECT id FROM {TABLE} WHERE id IN ({_places(ids)})", tuple(ids))  # noqa: S608
            return [row_id for (row_id,) in cursor.fetchall()]

    def newest_of(self, study_pks: Sequence[int]) -> dict[int, Mark]:
        """The latest recorded_at and the highest id of each of these studies that has several visible rows, by study_pk."""
        if not study_pks:
            return {}
        with self._cursor() as cursor:
            cursor.execute(
                f"SELECT study_pk, MAX(recorded_at), MAX(id) FROM {TABLE} "  # noqa: S608
                f"WHERE study_pk IN ({_places(study_pks)}) GROUP BY study_pk HAVING COUNT(*) > 1",
                tuple(study_pks),
            )
            return {study_pk: (recorded_at, row_id) for study_pk, recorded_at, row_id in cursor.fetchall()}

    def _window(
        self, after: Mark, leave_out: Sequence[tuple[int, int]], not_after: datetime | None
    ) -> tuple[str, tuple[object, ...]]:
        condition = "recorded_at >= %s AND (recorded_at > %s OR id > %s)"
        arguments: list[object] = [after[0], after[0], after[1]]
        if not_after is not None:
            condition += " AND recorded_at <= %s"
            arguments.append(not_after)
        for interval in leave_out:
            condition += " AND NOT id BETWEEN %s AND %s"
            arguments.extend(interval)
        return condition, tuple(arguments)

    def _rows(self, condition: str, arguments: Sequence[object]) -> list[OutboxRow]:
        with self._cursor(DictCursor) as cursor:
            cursor.execute(f"SELECT * FROM {TABLE} WHERE {condition}", tuple(arguments))  # noqa: S608
            return [
                OutboxRow(values["id"], values["operation"] or "", values["recorded_at"], values)
                for values in cursor.fetchall()
            ]

    # --- the view ----------------------------------------------------------------------------------------

    def studies(self, study_pks: Sequence[int]) -> dict[int, Mapping[str, object]]:
        """The view's rows of these studies, by study_pk."""
        if not study_pks:
            return {}
        with self._cursor(DictCursor) as cursor:
            cursor.execute(
                f"SELECT * FROM {VIEW} WHERE study_pk IN ({_places(study_pks)})",  # noqa: S608
                tuple(study_pks),
            )
            return {values["study_pk"]: values for values in cursor.fetchall()}

    def studies_of_patient(self, patient_pk: int, after_pk: int, limit: int) -> list[Mapping[str, object]]:
        """A page of a patient's studies with study_pk > ``after_pk``, by study_pk."""
        with self._cursor(DictCursor) as cursor:
            cursor.execute(
                f"SELECT * FROM {VIEW} WHERE patient_pk = %s AND study_pk > %s ORDER BY study_pk LIMIT %s",  # noqa: S608
                (patient_pk, after_pk, limit),
            )
            return list(cursor.fetchall())

    def last_study_pk(self) -> int:
        """The highest study_pk in the view, 0 when it is empty; a COUNT would read the whole of it."""
        with self._cursor() as cursor:
            cursor.execute(f"SELECT study_pk FROM {VIEW} ORDER BY study_pk DESC LIMIT 1")  # noqa: S608
            row = cursor.fetchone()
        return int(row[0]) if row else 0

    def page_after(self, after_pk: int, limit: int) -> StudyPage:
        """The next page of the view by study_pk, with its studies' outbox rows, in one short snapshot."""
        return self._page("study_pk > %s ORDER BY study_pk LIMIT %s", (after_pk, limit))

    def page_of(self, study_iuids: Sequence[str]) -> StudyPage:
        """The studies with these UIDs, as ``page_after`` gives them."""
        return self._page(f"study_iuid IN ({_places(study_iuids)}) ORDER BY study_pk", tuple(study_iuids))

    def page_of_pks(self, study_pks: Sequence[int]) -> StudyPage:
        """The studies with these primary keys, as ``page_after`` gives them."""
        return self._page(f"study_pk IN ({_places(study_pks)}) ORDER BY study_pk", tuple(study_pks))

    def _page(self, condition: str, arguments: Sequence[object]) -> StudyPage:
        with self._cursor(DictCursor) as cursor:
            # REPEATABLE READ, so that both queries see the same instant.
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")
            cursor.execute(f"SELECT * FROM {VIEW} WHERE {condition}", tuple(arguments))  # noqa: S608
            studies: list[Mapping[str, object]] = list(cursor.fetchall())
            rows: dict[int, list[tuple[int, datetime]]] = {}
            if studies:
                pks = [values["study_pk"] for values in studies]
                cursor.execute(
                    f"SELECT id, recorded_at, study_pk FROM {TABLE} "  # noqa: S608
                    f"WHERE study_pk IN ({_places(pks)}) AND operation IN ('stored', 'changed')",
                    tuple(pks),
                )
                for row in cursor.fetchall():
                    rows.setdefault(row["study_pk"], []).append((row["id"], row["recorded_at"]))
            # An error before this closes the session, and the server ends the snapshot.
            cursor.execute("COMMIT")
        return StudyPage(studies, rows)

    # --- the session -------------------------------------------------------------------------------------

    @contextmanager
    def _cursor(self, kind: type[Cursor] = Cursor) -> Iterator[Any]:
        if self._connection is None:
            self._connection = connect(self._database)
        try:
            with self._connection.cursor(kind) as cursor:
                yield cursor
        except (pymysql.Error, OSError) as error:
            self.close()
            raise translate(error, self._database) from None


def _places(values: Sequence[object]) -> str:
    return ", ".join(["%s"] * len(values))

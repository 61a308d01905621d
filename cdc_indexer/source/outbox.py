"""Reads the outbox (table ``study_service``) and the view ``indexer_study``: by key and by time, never the whole.

Every query is on its own, takes no lock, and is bounded by a page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from cdc_indexer.model.errors import SourceChanged
from cdc_indexer.model.moment import for_people
from cdc_indexer.model.study import OutboxRow

if TYPE_CHECKING:
    from cdc_indexer.source.session import Session
    from cdc_indexer.source.source import Source

TABLE = "study_service"
VIEW = "indexer_study"

#: A transaction that is open for longer is said: it may be a prepared one (XA) that nobody will ever end.
LONG_OPEN = timedelta(minutes=15)

#: So many ids are asked for in one statement.
_IDS = 1000

#: So many of the last rows are looked through for a new study.
_LAST = 5000

#: A place in the order of recording: (recorded_at, id).
Mark = tuple[datetime, int]


class StudyPage(NamedTuple):
    """A page of the view for `initial`, and the outbox rows that the same snapshot held of its studies.

    ``rows`` by study_pk: (id, recorded_at) of the 'stored' and 'changed' ones. ``epoch`` is the source's then.
    """

    studies: list[Mapping[str, object]]
    rows: Mapping[int, list[tuple[int, datetime]]]
    epoch: int


class Recorded(NamedTuple):
    """A row of the outbox without its values."""

    operation: str
    study_pk: int
    patient_pk: int | None
    recorded_at: datetime


class Outbox:
    """Thread-safe: each query borrows a session of the source and gives it back.

    Every method raises SourceError when the database can't be read, SchemaError when table or view are missing.
    """

    def __init__(self, source: Source, epoch: int | None = None) -> None:
        self._source = source
        self._epoch = epoch

    def at(self, epoch: int) -> Outbox:
        """The same, for this epoch of the source alone: what it gives was read in it, else it raises SourceChanged."""
        return Outbox(self._source, epoch)

    def in_one_epoch(self) -> Outbox:
        """The same, for the epoch that is now: several reads that belong together, or none."""
        return self.at(self._source.epoch)

    @contextmanager
    def _session(self) -> Iterator[Session]:
        with self._source.session() as session:
            if self._epoch is not None and session.epoch != self._epoch:
                raise SourceChanged(
                    "The database is another one than before: what was read there settles nothing here."
                )
            yield session

    # --- the outbox by time ------------------------------------------------------------------------------

    def now(self) -> datetime:
        """The server's clock, naive UTC: what recorded_at is measured by."""
        with self._session() as session:
            ((moment,),) = session.rows("SELECT UTC_TIMESTAMP(6)")
        return moment  # type: ignore[no-any-return]

    def newest(self, not_after: datetime) -> datetime | None:
        """When the newest visible row was recorded, of those that weren't recorded later than that; None: there is none."""
        with self._session() as session:
            rows = session.rows(
                f"SELECT MAX(recorded_at) FROM {TABLE} WHERE recorded_at <= %s",  # noqa: S608
                (not_after,),
            )
        return rows[0][0]  # type: ignore[no-any-return]

    def newest_stored(self) -> datetime | None:
        """When the last new study was recorded; None: there is none among the last rows."""
        with self._session() as session:
            rows = session.rows(
                f"SELECT MAX(recorded_at) FROM (SELECT operation, recorded_at FROM {TABLE} FORCE INDEX (recorded_at) "  # noqa: S608
                f"ORDER BY recorded_at DESC LIMIT {_LAST}) AS last WHERE operation = 'stored'"
            )
        return rows[0][0]  # type: ignore[no-any-return]

    def recorded_since(self, since: datetime) -> list[Recorded] | None:
        """What was recorded after that; None when it is more than is looked through."""
        with self._session() as session:
            rows = session.rows(
                f"SELECT operation, study_pk, patient_pk, recorded_at FROM {TABLE} FORCE INDEX (recorded_at) "  # noqa: S608
                f"WHERE recorded_at > %s ORDER BY recorded_at LIMIT {_LAST}",
                (since,),
            )
        return [Recorded(*row) for row in rows] if len(rows) < _LAST else None

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
        found: list[Mark] = []
        with self._session() as session:
            for condition, arguments in self._windows(after, leave_out, not_after):
                if len(found) < limit:
                    _uncommitted_too(session)
                    found += session.rows(
                        f"SELECT recorded_at, id FROM {TABLE} WHERE {condition} ORDER BY recorded_at, id LIMIT %s",  # noqa: S608
                        (*arguments, limit - len(found)),
                    )
        return found

    def rows_after(
        self, after: Mark, limit: int, leave_out: Sequence[tuple[int, int]] = ()
    ) -> list[OutboxRow]:
        """Up to ``limit`` committed rows after ``after`` = (recorded_at, id), in that order."""
        found: list[OutboxRow] = []
        for condition, arguments in self._windows(after, leave_out, None):
            if len(found) < limit:
                found += self._rows(
                    f"{condition} ORDER BY recorded_at, id LIMIT %s", (*arguments, limit - len(found))
                )
        return found

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
            # In one session: by two servers behind one address a row could be neither here nor there.
            with self._session() as session:
                if missing := set(some).difference(_ids_among(session, some)):
                    _uncommitted_too(session)
                    unseen.update(_ids_among(session, list(missing)))
        return unseen

    def newest_of(self, study_pks: Sequence[int]) -> dict[int, Mark]:
        """The latest recorded_at and the highest id of each of these studies that has several visible rows, by study_pk."""
        if not study_pks:
            return {}
        with self._session() as session:
            rows = session.rows(
                f"SELECT study_pk, MAX(recorded_at), MAX(id) FROM {TABLE} "  # noqa: S608
                f"WHERE study_pk IN ({_places(study_pks)}) GROUP BY study_pk HAVING COUNT(*) > 1",
                study_pks,
            )
        return {study_pk: (recorded_at, row_id) for study_pk, recorded_at, row_id in rows}

    def newest_rows(self, study_pks: Sequence[int], since: datetime) -> dict[int, datetime]:
        """The newest recorded_at of each of these studies that has rows recorded after ``since``, by study_pk."""
        if not study_pks:
            return {}
        with self._session() as session:
            rows = session.rows(
                f"SELECT study_pk, MAX(recorded_at) FROM {TABLE} "  # noqa: S608
                f"WHERE recorded_at > %s AND study_pk IN ({_places(study_pks)}) GROUP BY study_pk",
                (since, *study_pks),
            )
        return dict(rows)

    def _windows(
        self, after: Mark, leave_out: Sequence[tuple[int, int]], not_after: datetime | None
    ) -> Iterator[tuple[str, tuple[object, ...]]]:
        """Two conditions, one after the other: the rest of that moment, and all later ones.

        Both are ranges of the index on recorded_at, which ends with the id. Joined by an OR it would be read from the
        moment's first row again for each page: quadratic where one transaction has written many rows.
        """
        skipped = "".join(" AND NOT id BETWEEN %s AND %s" for _ in leave_out)
        intervals = [bound for interval in leave_out for bound in interval]
        until = "" if not_after is None else " AND recorded_at <= %s"
        last = [] if not_after is None else [not_after]
        yield f"recorded_at = %s AND id > %s{until}{skipped}", (*after, *last, *intervals)
        yield f"recorded_at > %s{until}{skipped}", (after[0], *last, *intervals)

    def _rows(self, condition: str, arguments: Sequence[object]) -> list[OutboxRow]:
        with self._session() as session:
            records = session.records(f"SELECT * FROM {TABLE} WHERE {condition}", arguments)  # noqa: S608
        return [
            OutboxRow(values["id"], values["operation"] or "", values["recorded_at"], values)
            for values in records
        ]

    # --- the view ----------------------------------------------------------------------------------------

    def studies(self, study_pks: Sequence[int]) -> dict[int, Mapping[str, object]]:
        """The view's rows of these studies, by study_pk."""
        if not study_pks:
            return {}
        with self._session() as session:
            records = session.records(
                f"SELECT * FROM {VIEW} WHERE study_pk IN ({_places(study_pks)})",  # noqa: S608
                study_pks,
            )
        return {values["study_pk"]: values for values in records}

    def studies_of_patient(self, patient_pk: int, after_pk: int, limit: int) -> list[Mapping[str, object]]:
        """A page of a patient's studies with study_pk > ``after_pk``, by study_pk."""
        with self._session() as session:
            return session.records(
                # "+ 0", so that the condition is no range of the primary key: MySQL would take that, and read every study
                # of the archive up to the patient's next one. By the patient's index the order is the same.
                f"SELECT * FROM {VIEW} WHERE patient_pk = %s AND study_pk + 0 > %s ORDER BY study_pk LIMIT %s",  # noqa: S608
                (patient_pk, after_pk, limit),
            )

    def last_study_pk(self) -> int:
        """The highest study_pk in the view, 0 when it is empty; a COUNT would read the whole of it."""
        with self._session() as session:
            rows = session.rows(f"SELECT study_pk FROM {VIEW} ORDER BY study_pk DESC LIMIT 1")  # noqa: S608
        return int(rows[0][0]) if rows else 0

    def newest_studies(self, limit: int) -> list[Mapping[str, object]]:
        """The view's rows of the studies with the highest study_pk, the highest first."""
        with self._session() as session:
            return session.records(f"SELECT * FROM {VIEW} ORDER BY study_pk DESC LIMIT %s", (limit,))  # noqa: S608

    def recorded(self, study_pks: Sequence[int]) -> set[int]:
        """Those among the studies that have a row in the outbox."""
        if not study_pks:
            return set()
        with self._session() as session:
            rows = session.rows(
                f"SELECT DISTINCT study_pk FROM {TABLE} WHERE study_pk IN ({_places(study_pks)})",  # noqa: S608
                study_pks,
            )
        return {study_pk for (study_pk,) in rows}

    def deleted(self, study_pks: Sequence[int]) -> set[str]:
        """UIDs of those among these studies that a row of their own says are deleted."""
        if not study_pks:
            return set()
        with self._session() as session:
            rows = session.rows(
                f"SELECT study_iuid FROM {TABLE} WHERE study_pk IN ({_places(study_pks)}) AND operation = 'deleted'",  # noqa: S608
                study_pks,
            )
        return {study_iuid for (study_iuid,) in rows}

    def view_after(self, after_pk: int, limit: int) -> list[Mapping[str, object]]:
        """The next page of the view by study_pk, without the outbox's rows."""
        with self._session() as session:
            return session.records(
                f"SELECT * FROM {VIEW} WHERE study_pk > %s ORDER BY study_pk LIMIT %s",  # noqa: S608
                (after_pk, limit),
            )

    def view_of(self, study_iuids: Sequence[str]) -> list[Mapping[str, object]]:
        """The view's rows of the studies with these UIDs."""
        if not study_iuids:
            return []
        with self._session() as session:
            return session.records(
                f"SELECT * FROM {VIEW} WHERE study_iuid IN ({_places(study_iuids)})",  # noqa: S608
                study_iuids,
            )

    def view_of_patient_id(self, patient_id: str) -> list[Mapping[str, object]]:
        """The view's rows of the studies of all patients with this id.

        Reads every study: the view joins them to their patients in that order (STRAIGHT_JOIN), for the pages by key, so that
        the archive's index on patient ids isn't used; and the view is all that the account may read.
        """
        with self._session() as session:
            return session.records(
                f"SELECT * FROM {VIEW} WHERE patient_id = %s ORDER BY study_pk",  # noqa: S608
                (patient_id,),
            )

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
        with self._session() as session, session.snapshot():
            studies = session.records(f"SELECT * FROM {VIEW} WHERE {condition}", arguments)  # noqa: S608
            rows: dict[int, list[tuple[int, datetime]]] = {}
            if studies:
                pks = [values["study_pk"] for values in studies]
                for row_id, recorded_at, study_pk in session.rows(
                    f"SELECT id, recorded_at, study_pk FROM {TABLE} "  # noqa: S608
                    f"WHERE study_pk IN ({_places(pks)}) AND operation IN ('stored', 'changed')",
                    pks,
                ):
                    rows.setdefault(study_pk, []).append((row_id, recorded_at))
            return StudyPage(list(studies), rows, session.epoch)


def came_since(study: Mapping[str, object]) -> str | None:
    """A sentence when this row of the view says that the archive has columns that it hadn't when the view was made.

    Only a view that was made for a version of the archive after which such columns came has that column of its own.
    """
    came = study.get("came_since")
    if not came:
        return None
    return (
        f"View and triggers were made for the tables of an older version of the archive ({came} came since): "
        "values that are sent may be missing or wrong."
    )


def open_for_long(since: datetime, now: datetime) -> str | None:
    """A sentence when a row that was recorded at ``since`` should be committed by ``now``."""
    if now - since <= LONG_OPEN:
        return None
    began = for_people(since, seconds=False)
    return (
        f"A transaction of the archive's has been open since {began}: its studies wait for its end, and what was recorded "
        "since then is read in every audit. Where the archive knows nothing of it any more it is a prepared one: XA RECOVER "
        "shows it, XA COMMIT or XA ROLLBACK ends it."
    )


def _uncommitted_too(session: Session) -> None:
    """For the next statement only: needs no right of its own, and takes no lock."""
    session.rows("SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")


def _ids_among(session: Session, ids: Sequence[int]) -> list[int]:
    return [row_id for (row_id,) in session.rows(f"SELECT id FROM {TABLE} WHERE id IN ({_places(ids)})", ids)]  # noqa: S608


def _places(values: Sequence[object]) -> str:
    return ", ".join(["%s"] * len(values))

"""A PACS and its database: studies, patients, the outbox that triggers fill, transactions, the binary log, a replica."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from cdc_indexer.model.moment import EPOCH, moment
from cdc_indexer.model.position import Identity, Position
from cdc_indexer.model.study import OutboxRow

#: What the archive's clock shows when a world begins (microseconds since 1970).
BEGINNING = 1_767_225_600_000_000

#: So long after a row was recorded an audit doesn't look for it any more, in microseconds.
SHOWN_LATE = 590_000_000

#: Instead of how late: the row has no time at all.
ZERO = -1

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Patient:
    """``revision`` tells its states apart, and which is newer."""

    pk: int
    revision: int


@dataclass(frozen=True, slots=True)
class Study:
    """``patient_pk`` is None while it has none; then the view doesn't show it. ``revision``: as a patient's."""

    pk: int
    uid: str
    patient_pk: int | None
    revision: int
    instances: int


class Row:
    """An outbox row in the table; only READ UNCOMMITTED shows those that aren't ``visible``."""

    __slots__ = ("row", "visible")

    def __init__(self, row: OutboxRow) -> None:
        self.row = row
        self.visible = False


class Transaction:
    """What a session has written and not committed. ``logged``: the binary log has it, and readers don't see it yet."""

    def __init__(self, server: Server) -> None:
        self._server = server
        # REPEATABLE READ: what the triggers read of other rows is what was committed when it began.
        self.studies_then = dict(server.studies)
        self.patients_then = dict(server.patients)
        self.studies: dict[int, Study | None] = {}
        self.patients: dict[int, Patient | None] = {}
        self.rows: list[Row] = []
        #: In the log nothing of it can be decoded: a statement, a compressed event.
        self.opaque = False
        self.logged = False

    def study(self, pk: int) -> Study | None:
        return self.studies[pk] if pk in self.studies else self.studies_then.get(pk)

    def patient(self, pk: int) -> Patient | None:
        # One that is newer than the snapshot would leave its studies to the sweep; that isn't what is tried here.
        then = self.patients_then.get(pk) or self._server.patients.get(pk)
        return self.patients.get(pk, then)

    def view(self, pk: int) -> Values | None:
        study = self.study(pk)
        return None if study is None else _values(study, self.patient)


def _values(study: Study, patient_of: Any) -> Values | None:
    patient = patient_of(study.patient_pk) if study.patient_pk is not None else None
    if patient is None:
        return None
    return {
        "patient_pk": patient.pk,
        "patient_id": f"P{patient.pk}",
        "patient_name": f"n{patient.revision}",
        "study_pk": study.pk,
        "study_iuid": study.uid,
        "study_datetime": None,
        "study_description": f"d{study.revision}",
        "study_modality": "CT" if study.instances else "",
        "study_series": 1 if study.instances else 0,
        "study_instances": study.instances,
    }


@dataclass(frozen=True, slots=True)
class Logged:
    """A transaction in the binary log: row events, each of some rows (None: undecodable), and where it ends."""

    events: tuple[tuple[OutboxRow, ...] | None, ...]
    end: Position


class Server:
    """One database server. What it says is asked by methods, one statement each; what the archive does is in ``Archive``."""

    def __init__(self, name: str, first_id: int) -> None:
        self.identity = Identity(name, "pacsdb")
        self.studies: dict[int, Study] = {}
        self.patients: dict[int, Patient] = {}
        self.outbox: dict[int, Row] = {}
        self.next_id = first_id
        self.transactions: list[Transaction] = []
        #: Microseconds that its clock is ahead of the world's.
        self.clock_ahead = 0
        self.log_on = True
        self.log: list[Logged] = []
        self._files = 1
        self._created = 1
        self._offset = 4
        #: Grows when the log that a reader has open is taken from under it.
        self.log_life = 0
        self.log_start = self.end()
        #: What a replica of it still has to apply.
        self.relay: list[Transaction] | None = None

    # --- the view and the table --------------------------------------------------------------------------

    def view_of(self, pk: int) -> Values | None:
        study = self.studies.get(pk)
        return None if study is None else _values(study, self.patients.get)

    def view(self) -> dict[int, Values]:
        """All of it, by study_pk."""
        found = ((pk, self.view_of(pk)) for pk in sorted(self.studies))
        return {pk: values for pk, values in found if values is not None}

    def by_uid(self, uids: Iterable[str]) -> dict[str, Values]:
        wanted = set(uids)
        return {
            values["study_iuid"]: values for values in self.view().values() if values["study_iuid"] in wanted
        }

    def ids_after(self, after: tuple[datetime, int], limit: int) -> list[tuple[datetime, int]]:
        """READ UNCOMMITTED, as Outbox.ids_after."""
        marks = [
            (row.row.recorded_at, row_id)
            for row_id, row in self.outbox.items()
            if row.row.recorded_at is not None and (row.row.recorded_at, row_id) > after
        ]
        marks.sort()
        return marks[:limit]

    def rows(self, ids: Iterable[int]) -> list[OutboxRow]:
        """The committed ones among them."""
        found = [
            self.outbox[row_id].row for row_id in ids if row_id in self.outbox and self.outbox[row_id].visible
        ]
        return sorted(found, key=lambda row: (row.recorded_at or datetime.min, row.id))

    def visible(self, ids: Iterable[int]) -> set[int]:
        return {row_id for row_id in ids if row_id in self.outbox and self.outbox[row_id].visible}

    def uncommitted(self, ids: Iterable[int]) -> set[int]:
        return {row_id for row_id in ids if row_id in self.outbox}

    def newest(self, not_after: datetime) -> datetime | None:
        """When the newest visible row was recorded that isn't later than that."""
        times = [
            row.row.recorded_at
            for row in self.outbox.values()
            if row.visible and row.row.recorded_at is not None
        ]
        return max((time for time in times if time <= not_after), default=None)

    def last_recorded(self) -> datetime:
        """When the newest visible row of all was recorded."""
        times = [row.row.recorded_at for row in self.outbox.values() if row.visible and row.row.recorded_at]
        return max(times, default=EPOCH)

    def newest_rows(self, pks: Iterable[int]) -> dict[int, datetime]:
        """The same of some studies."""
        newest: dict[int, datetime] = {}
        wanted = set(pks)
        for row in self.outbox.values():
            if row.visible and row.row.study_pk in wanted and row.row.recorded_at is not None:
                pk = row.row.study_pk
                newest[pk] = max(newest.get(pk, row.row.recorded_at), row.row.recorded_at)
        return newest

    def superseded(self) -> frozenset[int]:
        """Visible rows that have a newer one of their study."""
        marks: dict[int, list[tuple[datetime, int]]] = {}
        for row in self.outbox.values():
            if row.visible and row.row.recorded_at is not None:
                marks.setdefault(row.row.study_pk, []).append((row.row.recorded_at, row.row.id))
        return frozenset(
            row_id for of_one in marks.values() for at, row_id in of_one if (at, row_id) < max(of_one)
        )

    # --- the binary log ----------------------------------------------------------------------------------

    def end(self) -> Position:
        return Position(f"bin.{self._files:06}", self._offset, self._created)

    def index_of(self, position: Position) -> int | None:
        """Where in ``log`` reading begins after that position; None when the log doesn't hold it."""
        if position == self.end():
            return len(self.log)
        for index, logged in enumerate(self.log):
            if logged.end == position:
                return index + 1
        return 0 if self.log_start == position else None

    def write_log(self, events: tuple[tuple[OutboxRow, ...] | None, ...]) -> None:
        if self.log_on:
            self._offset += 100
            self.log.append(Logged(events, self.end()))

    def rotate(self) -> None:
        self._files += 1
        self._created += 1
        self._offset = 4
        self.log.append(Logged((), self.end()))

    def purge(self, count: int) -> None:
        """Forgets the oldest transactions of the log."""
        if count:
            self.log_start = self.log[count - 1].end
            del self.log[:count]
            self.log_life += 1

    def reset_log(self) -> None:
        self._files, self._offset = 1, 4
        self._created += 1
        self.log = []
        self.log_start = self.end()
        self.log_life += 1

    # --- transactions ------------------------------------------------------------------------------------

    def log_transaction(self, transaction: Transaction) -> None:
        """It is in the log; who reads the table doesn't see it yet."""
        transaction.logged = True
        rows = [row.row for row in transaction.rows]
        if rows:
            # Two rows in an event: an event, and a transaction, may end anywhere.
            events = [tuple(rows[at : at + 2]) for at in range(0, len(rows), 2)]
            self.write_log((None,) if transaction.opaque else tuple(events))
        else:
            self.write_log(())
        if self.relay is not None:
            self.relay.append(transaction)

    def show(self, transaction: Transaction) -> None:
        """It is committed: everybody sees it."""
        if transaction in self.transactions:
            self.transactions.remove(transaction)
        _write(self.studies, transaction.studies)
        _write(self.patients, transaction.patients)
        for row in transaction.rows:
            row.visible = True

    def roll_back(self, transaction: Transaction) -> None:
        self.transactions.remove(transaction)
        for row in transaction.rows:
            self.outbox.pop(row.row.id, None)

    def apply(self, transaction: Transaction) -> None:
        """As a replica: rows by rows, with the ids and the times that they have."""
        copies = []
        for row in transaction.rows:
            copy = self.outbox[row.row.id] = Row(row.row)
            copies.append(copy)
        again = Transaction(self)
        again.studies, again.patients, again.rows = transaction.studies, transaction.patients, copies
        again.opaque = transaction.opaque
        self.log_transaction(again)
        self.show(again)


def _write(table: dict[int, Any], written: dict[int, Any]) -> None:
    for pk, value in written.items():
        if value is None:
            table.pop(pk, None)
        else:
            table[pk] = value


class Archive:
    """What the PACS does, on the server that is its primary."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.triggers_on = True
        self._revision = 0
        self.next_pk = 1
        #: All that a study ever had.
        self.uids: set[str] = set()
        #: How often each was stored.
        self.births: dict[str, int] = {}
        #: Of which something wasn't recorded, since the triggers were off.
        self.unrecorded: set[str] = set()
        self.now = BEGINNING

    def revision(self) -> int:
        self._revision += 1
        return self._revision

    def new_uid(self) -> str:
        uid = f"1.{len(self.uids) + 1}"
        self.uids.add(uid)
        return uid

    # --- sessions ----------------------------------------------------------------------------------------

    def begin(self) -> Transaction:
        transaction = Transaction(self.server)
        self.server.transactions.append(transaction)
        return transaction

    def free_studies(self, transaction: Transaction) -> list[Study]:
        """Those that no other transaction has locked, as they are now."""
        locked = {
            pk for other in self.server.transactions if other is not transaction for pk in other.studies
        }
        current = {**self.server.studies, **transaction.studies}
        return [study for pk, study in sorted(current.items()) if study is not None and pk not in locked]

    def free_patients(self, transaction: Transaction) -> list[Patient]:
        locked = {
            pk for other in self.server.transactions if other is not transaction for pk in other.patients
        }
        current = {**self.server.patients, **transaction.patients}
        return [
            patient for pk, patient in sorted(current.items()) if patient is not None and pk not in locked
        ]

    def record(
        self, transaction: Transaction, operation: str, values: Values | None, *, late: int = 0
    ) -> None:
        """What the triggers do. ``late``: so long after the moment that the row says."""
        if values is None:
            return
        if not self.triggers_on:
            studies = self.server.studies.values() if operation == "patient" else ()
            named = [study.uid for study in studies if study.patient_pk == values["patient_pk"]]
            self.unrecorded.update(named or [values["study_iuid"]])
            return
        server = self.server
        server.next_id += 1
        clock = self.now + server.clock_ahead - late
        recorded_at = moment(clock) if late != ZERO else None
        row = Row(OutboxRow(server.next_id, operation, recorded_at, values))  # type: ignore[arg-type]
        server.outbox[row.row.id] = row
        transaction.rows.append(row)

    def record_stale(self, transaction: Transaction) -> None:
        """A trigger reads without locks: the last row has the patient's name as it was a moment before."""
        if self.triggers_on:
            last = transaction.rows[-1]
            last.row = last.row._replace(values={**last.row.values, "patient_name": "n0"})

    # --- what it does, inside a transaction --------------------------------------------------------------

    def new_patient(self, transaction: Transaction) -> Patient:
        patient = Patient(self.next_pk, self.revision())
        self.next_pk += 1
        transaction.patients[patient.pk] = patient
        return patient

    def store(
        self, transaction: Transaction, patient: Patient, uid: str | None, instances: int, late: int
    ) -> None:
        if uid is None:
            uid = self.new_uid()
        self.births[uid] = self.births.get(uid, 0) + 1
        study = Study(self.next_pk, uid, patient.pk, self.revision(), instances)
        self.next_pk += 1
        transaction.studies[study.pk] = study
        self.record(transaction, "stored", transaction.view(study.pk), late=late)

    def change(self, transaction: Transaction, study: Study, late: int = 0, **what: Any) -> None:
        changed = replace(study, revision=self.revision(), **what)
        transaction.studies[study.pk] = changed
        had, has = study.patient_pk is not None, changed.patient_pk is not None
        if had and (not has or changed.uid != study.uid):
            self._record_deleted(transaction, study, late=late)
        if has:
            if not had or changed.uid != study.uid:
                # Another life of it. (Under its primary key there may be rows of another UID.)
                self.births[changed.uid] = self.births.get(changed.uid, 1) + 1
            self.record(transaction, "changed" if had else "stored", transaction.view(study.pk), late=late)

    def _record_deleted(self, transaction: Transaction, study: Study, late: int = 0) -> None:
        """Key and UID, nothing of the view; of a study without patient that has been recorded before."""
        if study.patient_pk is not None:
            named = {"study_pk": study.pk, "study_iuid": study.uid}
            self.record(transaction, "deleted", named, late=late)

    def delete(self, transaction: Transaction, study: Study) -> None:
        if study.pk not in transaction.studies:
            transaction.studies_then[study.pk] = study  # a DELETE reads what is there now
        self._record_deleted(transaction, study)
        transaction.studies[study.pk] = None

    def rename(self, transaction: Transaction, patient: Patient) -> None:
        renamed = Patient(patient.pk, self.revision())
        transaction.patients[patient.pk] = renamed
        self.record(transaction, "patient", {"patient_pk": patient.pk, "study_pk": 0, "study_iuid": None})

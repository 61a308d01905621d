"""Whether what extras/add_indexer.sql makes is there and works: findings for `check`.

``outbox`` is what the service's own account can see: the table, the view, and whether studies are recorded. ``objects``
needs an administrator's login: triggers, procedures and the event are hidden from the service's account.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cdc_indexer.checks.account import run_script
from cdc_indexer.checks.archive import Archive, exists
from cdc_indexer.checks.grants import parse
from cdc_indexer.model.errors import SourceError
from cdc_indexer.model.finding import Finding, failed, ok, warning
from cdc_indexer.model.program import command
from cdc_indexer.model.study import KEYS
from cdc_indexer.source import catalogue
from cdc_indexer.source.outbox import TABLE, VIEW

if TYPE_CHECKING:
    from cdc_indexer.model.settings import DatabaseSettings
    from cdc_indexer.source.session import Session as Connection

__all__ = ["NEWEST", "TRIGGERS", "TRIGGERS_ARC5", "Check", "objects", "outbox"]

#: The name of a check, and what makes its findings.
Check = tuple[str, Callable[[], Iterable[Finding]]]

#: So many of the newest studies are compared with what was recorded.
NEWEST = 500
_RECENT = timedelta(days=7)

_OR_FIELDS = "\nA column that `fields` names and the script doesn't have: remove it from `fields`."
#: The ten columns of the contract; the centre isn't the database's.
_VIEW_COLUMNS = tuple(KEYS)[:10]
_TABLE_COLUMNS = ("id", "operation", *_VIEW_COLUMNS, "recorded_at")
_INDEXED = ("study_pk", "recorded_at")

TRIGGERS = (
    "indexer_study_insert",
    "indexer_study_update",
    "indexer_study_delete",
    "indexer_patient_update",
    "indexer_row",
)
TRIGGERS_ARC5 = (
    *TRIGGERS,
    "indexer_instance_insert",
    "indexer_instance_delete",
    "indexer_series_insert",
    "indexer_series_update",
    "indexer_series_delete",
    "indexer_rejected_insert",
    "indexer_rejected_delete",
    "indexer_patient_before",
    "indexer_patient_id_insert",
    "indexer_patient_id_before",
    "indexer_patient_id_update",
    "indexer_patient_id_delete",
    "indexer_person_name_update",
)
#: The old client's: on the new table it would make every study fail (error 1136).
_OLD_TRIGGER = "indexer_process"
_PROCEDURES = ("indexer_process", "indexer_prune")
_EVENT = "indexer_prune"


def outbox(connection: Connection, database: DatabaseSettings, columns: tuple[str, ...]) -> list[Check]:
    """The checks of table and view; ``columns``: more columns of the view that the settings name."""
    one = _Outbox(connection, database.name, columns)
    return [
        ("table", one.table),
        ("view", one.view),
        ("recorded_at", one.clock),
        ("recorded studies", one.recorded),
    ]


def objects(connection: Connection, database: DatabaseSettings) -> list[Check]:
    """The checks that need an administrator's login."""
    one = _Objects(connection, database.name)
    return [
        ("archive's version", one.version),
        ("triggers", one.triggers),
        ("procedures", one.procedures),
        ("event", one.event),
        ("cascade", one.cascade),
    ]


class _Session:
    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._name = name

    @property
    def _again(self) -> str:
        """What to do where something of the script's is missing or broken; this account doesn't see which archive it is."""
        return run_script(self._name, None, again=True)

    def _rows(self, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, arguments or None)
            return [
                tuple(value.decode() if isinstance(value, bytes) else value for value in row)
                for row in cursor.fetchall()
            ]


class _Outbox(_Session):
    def __init__(self, connection: Connection, name: str, columns: tuple[str, ...]) -> None:
        super().__init__(connection, name)
        self._columns = columns

    def table(self) -> Iterator[Finding]:
        found = {
            column.name.lower(): column for column in catalogue.columns(self._connection, self._name, TABLE)
        }
        if "id" not in found:
            yield failed(
                "table",
                f"{TABLE} is the one-column table of the old client.",
                f"{self._again}\nIt keeps what is queued.",
            )
            return
        missing = [name for name in (*_TABLE_COLUMNS, *self._columns) if name.lower() not in found]
        if missing:
            yield failed("table", f"{TABLE} lacks the column {', '.join(missing)}.", self._again + _OR_FIELDS)
            return
        indexed = {
            str(column).lower()
            for (column,) in self._rows(
                "SELECT COLUMN_NAME FROM information_schema.STATISTICS "
                "WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s AND SEQ_IN_INDEX = 1",
                self._name,
                TABLE,
            )
        }
        without = [name for name in _INDEXED if name not in indexed]
        if without:
            yield failed(
                "table",
                f"{TABLE} has no index on {' and '.join(without)}: each look at it would read the whole of it.",
                "As an administrator, in a quiet hour:\n"
                + "\n".join(f"ALTER TABLE {TABLE} ADD KEY {name} ({name});" for name in without),
            )
            return
        yield ok("table", f"{TABLE} has its {len(found)} columns and its indexes.")

    def view(self) -> Iterator[Finding]:
        with self._connection.cursor() as cursor:
            # By the primary key, so that one row is read.
            cursor.execute(f"SELECT * FROM {VIEW} ORDER BY study_pk DESC LIMIT 1")  # noqa: S608
            found = {column[0].lower() for column in cursor.description or ()}
        missing = [name for name in (*_VIEW_COLUMNS, *self._columns) if name.lower() not in found]
        if missing:
            yield failed(
                "view",
                f"{VIEW} lacks the column {', '.join(missing)}.",
                self._again + _OR_FIELDS,
            )
        else:
            yield ok("view", f"{VIEW} can be read.")

    def clock(self) -> Iterator[Finding]:
        """Whether a row can be given the moment at which it was written, and not only that of its statement."""
        ((_, moves),) = self._rows("SELECT SLEEP(0.002), SYSDATE(6) > NOW(6)")
        if moves:
            yield ok("recorded_at", "The server knows the time within a statement.")
        else:
            said = "The server runs with sysdate-is-now: a row whose statement waited for a lock is dated before the wait."
            yield warning("recorded_at", said, "Take sysdate-is-now out of my.cnf, and restart the server.")

    def recorded(self) -> Iterator[Finding]:
        """Whether the newest studies are in the outbox: a trigger's handler swallows every error, and says nothing.

        Studies that were there before the triggers aren't: those with a smaller key than the first that was recorded as
        new, or, while none was, of a day before the table was made.
        """
        newest = self._rows(
            f"SELECT study_pk, study_datetime FROM {VIEW} ORDER BY study_pk DESC LIMIT {NEWEST}"  # noqa: S608
        )
        # After the view: whatever that showed was recorded in the same transaction.
        # MariaDB 10.11 would read and sort the whole table else.
        oldest = self._rows(
            f"SELECT operation, study_pk FROM {TABLE} FORCE INDEX (recorded_at) "  # noqa: S608
            f"ORDER BY recorded_at, id LIMIT {NEWEST}"
        )
        first = next((pk for operation, pk in oldest if operation == "stored"), None)
        ((now, made),) = self._rows(
            "SELECT NOW(), CREATE_TIME FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s",
            self._name,
            TABLE,
        )
        # study_datetime is the archive's local time, NOW() here is UTC: a day's room at both ends.
        since = now - _RECENT - timedelta(days=1)
        recent = [pk for pk, moment in newest if isinstance(moment, datetime) and moment >= since]
        if first is not None:
            recent = [pk for pk in recent if pk > first]
        elif made is not None:
            days = dict(newest)
            recent = [pk for pk in recent if days[pk] >= made - timedelta(days=1)]
        if not recent:
            yield ok("recorded studies", "No study was stored lately that would have to be in study_service.")
            return
        there = {
            pk
            for (pk,) in self._rows(
                f"SELECT DISTINCT study_pk FROM {TABLE} WHERE study_pk IN ({', '.join(['%s'] * len(recent))})",  # noqa: S608
                *recent,
            )
        }
        lost = sorted(set(recent) - there)
        if not lost:
            yield ok("recorded studies", f"All {len(recent)} studies of the last days are in study_service.")
            return
        said = f"{len(lost)} of {len(recent)} studies of the last days aren't in {TABLE} (study_pk {_some(lost)})"
        remedy = (
            f"`check --admin root` shows which part is broken. {self._again}\n"
            f"Then send what was missed:\n{command('initial', '--since', str(min(since, now).date()))}"
        )
        if first is not None:
            yield failed("recorded studies", f"{said}: the triggers don't record.", remedy)
        else:
            yield warning(
                "recorded studies",
                f"{said}, and no other is: the triggers don't record, or nothing was stored since they are there.",
                remedy,
            )


class _Objects(_Session):
    @cached_property
    def _archive(self) -> Archive:
        return Archive(self._rows, self._name)

    @property
    def _again(self) -> str:
        return run_script(self._name, self._archive.is_arc5, again=True)

    @property
    def _triggers(self) -> tuple[str, ...]:
        return TRIGGERS_ARC5 if self._archive.is_arc5 else TRIGGERS

    def version(self) -> Iterator[Finding]:
        """Whether view and triggers were made for the archive's tables as they are now: an upgrade changes them."""
        query = (
            "SELECT TABLE_COMMENT FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s"
        )
        rows = self._rows(query, self._name, TABLE)
        said = str(rows[0][0]) if rows else ""
        now = self._archive.made_for
        if not self._archive.is_dcm4chee:
            yield ok("archive's version", "Another archive than DCM4CHEE.")
        elif said == now:
            yield ok(
                "archive's version", f"View and triggers were made for its tables as they are now ({now})."
            )
        else:
            yield failed(
                "archive's version",
                f"View and triggers were made for tables of another version ({said or 'not said'}; now: {now}): "
                "values may be missing, or studies not recorded.",
                f"After each upgrade of the archive. {self._again}",
            )

    def triggers(self) -> Iterator[Finding]:
        if not self._sees_triggers():
            yield failed(
                "triggers",
                "This login sees no triggers of the archive.",
                "Use one that has all rights on the database: `check --admin root`.",
            )
            return
        found = {
            str(name): str(definer)
            for name, definer in self._rows(
                "SELECT TRIGGER_NAME, DEFINER FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = %s",
                self._name,
            )
            if str(name).startswith("indexer_")
        }
        if _OLD_TRIGGER in found:
            yield failed(
                "triggers",
                f"The old client's trigger {_OLD_TRIGGER} is still there: with the new table, no study can be stored.",
                f"At once, as an administrator:\nDROP TRIGGER {_OLD_TRIGGER};\n{self._again}",
            )
        missing = [name for name in self._triggers if name not in found]
        if missing:
            yield failed(
                "triggers", f"Missing: {', '.join(missing)}. What they would record isn't sent.", self._again
            )
        gone = self._without_account(found)
        if gone:
            yield failed(
                "triggers",
                f"The account {', '.join(sorted(set(gone.values())))} is gone, with whose rights {', '.join(sorted(gone))} "
                "run: no study can be stored (error 1449).",
                self._again,
            )
        # The one on our own table stops nobody.
        powerless = {
            definer
            for name, definer in found.items()
            if name not in gone and name != "indexer_row" and not self._archive.may_trigger(definer)
        }
        if powerless:
            yield failed(
                "triggers",
                f"The account {', '.join(sorted(powerless))} has lost the right TRIGGER on the archive's tables: "
                "no study can be stored (error 1142).",
                self._again,
            )
        if not missing and not gone and not powerless and _OLD_TRIGGER not in found:
            definers = ", ".join(sorted({found[name] for name in self._triggers}))
            yield ok(
                "triggers",
                f"All {len(self._triggers)} are there, with the rights of {definers} "
                "(which must be there wherever a dump of the archive is restored).",
            )

    def procedures(self) -> Iterator[Finding]:
        found = {
            str(name): str(definer)
            for name, definer in self._rows(
                "SELECT ROUTINE_NAME, DEFINER FROM information_schema.ROUTINES "
                "WHERE ROUTINE_SCHEMA = %s AND ROUTINE_TYPE = 'PROCEDURE'",
                self._name,
            )
        }
        missing = [name for name in _PROCEDURES if name not in found]
        gone = self._without_account({name: found[name] for name in _PROCEDURES if name in found})
        if missing:
            yield failed("procedures", f"Missing: {', '.join(missing)}. Nothing is recorded.", self._again)
        if gone:
            yield failed(
                "procedures",
                f"The account {', '.join(sorted(set(gone.values())))} is gone, with whose rights "
                f"{', '.join(sorted(gone))} run: nothing is recorded.",
                self._again,
            )
        if not missing and not gone:
            yield ok("procedures", f"{' and '.join(_PROCEDURES)} are there.")

    def event(self) -> Iterator[Finding]:
        found = self._rows(
            "SELECT STATUS FROM information_schema.EVENTS WHERE EVENT_SCHEMA = %s AND EVENT_NAME = %s",
            self._name,
            _EVENT,
        )
        if not found:
            yield warning("event", f"The event {_EVENT} is missing: old rows of {TABLE} stay.", self._again)
        elif str(found[0][0]).upper() != "ENABLED":
            yield warning(
                "event",
                f"The event {_EVENT} is {str(found[0][0]).lower()}, as after the promotion of a replica: "
                f"old rows of {TABLE} stay.",
                f"As an administrator:\nALTER EVENT {_EVENT} ENABLE;",
            )
        else:
            yield ok("event", f"{_EVENT} is enabled.")

    def cascade(self) -> Iterator[Finding]:
        found = self._rows(
            "SELECT CONSTRAINT_NAME, REFERENCED_TABLE_NAME, DELETE_RULE FROM information_schema.REFERENTIAL_CONSTRAINTS "
            "WHERE CONSTRAINT_SCHEMA = %s AND TABLE_NAME = 'study' AND DELETE_RULE IN ('CASCADE', 'SET NULL')",
            self._name,
        )
        if not found:
            yield ok("cascade", "No foreign key deletes studies past the triggers.")
        for name, parent, rule in found:
            yield warning(
                "cascade",
                f"The foreign key {name} (ON DELETE {rule}) changes studies when a row of {parent} is deleted, "
                "and fires no trigger: such deletions aren't recorded.",
                "Make the foreign key again without ON DELETE, as the archive's own script has it: what the archive then "
                "does with the studies is recorded. What was deleted so far, tell the index yourself.",
            )

    def _sees_triggers(self) -> bool:
        grants = parse(str(line) for (line,) in self._rows("SHOW GRANTS"))
        return any(grant.covers("TRIGGER", self._name, "study") for grant in grants)

    def _without_account(self, definers: dict[str, str]) -> dict[str, str]:
        """Those whose definer doesn't exist; none where this login can't know."""
        try:
            accounts = {f"{user}@{host}" for user, host in self._rows("SELECT User, Host FROM mysql.user")}
        except SourceError:
            return {}
        return {name: definer for name, definer in definers.items() if not exists(definer, accounts)}


def _some(pks: list[int]) -> str:
    return ", ".join(map(str, pks[-5:])) + (", ..." if len(pks) > 5 else "")

"""Whether what extras/add_indexer.sql makes is there and works: findings for `check`.

That is what the service's own account sees: the table, the view, and whether studies are recorded. objects.py has the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from cdc_indexer.checks.account import run_script
from cdc_indexer.model.finding import Finding, failed, ok, warning
from cdc_indexer.model.program import command
from cdc_indexer.model.study import KEYS
from cdc_indexer.source import catalogue
from cdc_indexer.source.catalogue import is_arc5
from cdc_indexer.source.outbox import TABLE, VIEW, came_since

if TYPE_CHECKING:
    from cdc_indexer.model.settings import DatabaseSettings
    from cdc_indexer.source.session import Session as Connection

__all__ = ["NEWEST", "Check", "Looking", "OutboxChecks"]

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


class Looking:
    """What the checks of one database share: a session to ask, and what to do where something is missing."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._name = name

    @property
    def _again(self) -> str:
        """What to do where something of the script's is missing or broken."""
        made_for = catalogue.made_for(self._connection, self._name)
        # The old client's table doesn't say for which archive it was made.
        return run_script(self._name, is_arc5(made_for) if made_for else None, again=True)

    def _rows(self, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, arguments or None)
            return [
                tuple(value.decode() if isinstance(value, bytes) else value for value in row)
                for row in cursor.fetchall()
            ]


class OutboxChecks(Looking):
    """The checks of table and view; ``columns``: more columns of the view that the settings name."""

    def __init__(self, connection: Connection, database: DatabaseSettings, columns: tuple[str, ...]) -> None:
        super().__init__(connection, database.name)
        self._columns = columns
        #: Whether a study was seen that a trigger has recorded, and none that none has.
        self.records = False

    def all(self) -> list[Check]:
        """With the name of each."""
        return [
            ("table", self.table),
            ("view", self.view),
            ("recorded_at", self.clock),
            ("recorded studies", self.recorded),
        ]

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
            found = [column[0].lower() for column in cursor.description or ()]
            study = dict(zip(found, cursor.fetchone() or (), strict=False))
        missing = [name for name in (*_VIEW_COLUMNS, *self._columns) if name.lower() not in found]
        if missing:
            yield failed(
                "view",
                f"{VIEW} lacks the column {', '.join(missing)}.",
                self._again + _OR_FIELDS,
            )
        elif came := came_since(study):
            yield failed("view", came, f"After each upgrade of the archive. {self._again}")
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
            self.records = True
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
        self.records = not lost
        if not lost:
            yield ok("recorded studies", f"All {len(recent)} studies of the last days are in study_service.")
            return
        said = f"{len(lost)} of {len(recent)} studies of the last days aren't in {TABLE} (study_pk {_some(lost)})"
        remedy = (
            f"`check --admin root` shows which part is broken. {self._again}\n"
            f"Then send what was missed, deletions too:\n{command('reconcile')}"
        )
        if first is not None:
            yield failed("recorded studies", f"{said}: the triggers don't record.", remedy)
        else:
            yield warning(
                "recorded studies",
                f"{said}, and no other is: the triggers don't record, or nothing was stored since they are there.",
                remedy,
            )


def _some(pks: list[int]) -> str:
    return ", ".join(map(str, pks[-5:])) + (", ..." if len(pks) > 5 else "")

"""Whether triggers, procedures and the event are there, and made for the archive as it is: findings for `check --admin`.

They are hidden from the service's account: an administrator's login sees them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from cdc_indexer.checks.account import run_script
from cdc_indexer.checks.archive import Archive, exists
from cdc_indexer.checks.grants import parse
from cdc_indexer.checks.installation import Check, Looking
from cdc_indexer.model.errors import SourceError
from cdc_indexer.model.finding import Finding, failed, ok, warning
from cdc_indexer.model.program import command
from cdc_indexer.source import catalogue
from cdc_indexer.source.outbox import TABLE

if TYPE_CHECKING:
    from cdc_indexer.model.settings import DatabaseSettings
    from cdc_indexer.source.session import Session as Connection

__all__ = ["TRIGGERS", "TRIGGERS_ARC5", "objects"]

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


class _Objects(Looking):
    @cached_property
    def _archive(self) -> Archive:
        return Archive(self._rows, self._name)

    @property
    def _again(self) -> str:
        return run_script(self._name, self._archive.is_arc5, again=True)

    @property
    def _and_compare(self) -> str:
        """Where something wasn't recorded: comparing finds what."""
        return f"{self._again}\nThen send what was missed, deletions too:\n{command('reconcile')}"

    @property
    def _triggers(self) -> tuple[str, ...]:
        return TRIGGERS_ARC5 if self._archive.is_arc5 else TRIGGERS

    def version(self) -> Iterator[Finding]:
        """Whether view and triggers were made for the archive's tables as they are now: an upgrade changes them."""
        said = catalogue.made_for(self._connection, self._name)
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
                "triggers",
                f"Missing: {', '.join(missing)}. What they would record isn't sent.",
                self._and_compare,
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

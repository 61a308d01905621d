"""Which archive a database holds, in which version, and what its accounts may do: for `check --admin`."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from typing import Any

from cdc_indexer.checks.grants import parse
from cdc_indexer.model.errors import SourceError

__all__ = ["ARC5_TABLE", "Archive", "exists"]

#: A table that dcm4chee-arc 5 has and DCM4CHEE 2 hasn't.
ARC5_TABLE = "study_query_attrs"
#: What of dcm4chee-arc 5's tables depends on its version, by the word that the script leaves in the table's comment.
_VERSIONED = {
    "patient_fk": {("patient_id", "patient_fk")},
    "patient_id_fk": {("patient", "patient_id_fk")},
    "entity_id": {("patient_id", "entity_id")},
    "rejected": {("rejected_instance", "sop_iuid")},
    "purge": {("series", "inst_purge_state"), ("series_query_attrs", "num_instances")},
}


class Archive:
    """``rows`` runs a statement as the administrator; asked once for the columns of database ``name``."""

    def __init__(self, rows: Callable[..., list[tuple[Any, ...]]], name: str) -> None:
        self._rows = rows
        self._name = name

    @cached_property
    def _columns(self) -> set[tuple[Any, ...]]:
        return set(
            self._rows(
                "SELECT TABLE_NAME, COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = %s",
                self._name,
            )
        )

    @property
    def is_arc5(self) -> bool:
        return any(table == ARC5_TABLE for table, _ in self._columns)

    @property
    def is_dcm4chee(self) -> bool:
        return ("study", "study_iuid") in self._columns

    @property
    def words(self) -> tuple[str, ...]:
        """What distinguishes this version of dcm4chee-arc 5 from others, in the order in which the script says it."""
        return tuple(word for word, needed in _VERSIONED.items() if needed <= self._columns)

    @property
    def made_for(self) -> str:
        """What extras/add_indexer.sql or add_indexer_arc5.sql would leave as the comment of study_service."""
        return " ".join(("dcm4chee-arc 5", *self.words)) if self.is_arc5 else "DCM4CHEE 2"

    def may_trigger(self, definer: str) -> bool:
        """Whether an account has the right TRIGGER on the archive's studies; True where this login can't know."""
        if not self.is_dcm4chee:
            return True
        user = definer.rpartition("@")[0]
        try:
            for name, host in self._rows("SELECT User, Host FROM mysql.user"):
                if name == user and exists(definer, {f"{name}@{host}"}):
                    grants = parse(str(line) for (line,) in self._rows(f"SHOW GRANTS FOR '{user}'@'{host}'"))
                    if any(grant.covers("TRIGGER", self._name, "study") for grant in grants):
                        return True
        except SourceError:
            return True
        return False


def exists(definer: str, accounts: set[str]) -> bool:
    """Whether a definer is one of the accounts: as at a login, the host of an account may be a pattern."""
    user, _, host = definer.rpartition("@")
    for account in accounts:
        name, _, pattern = account.rpartition("@")
        expression = re.escape(pattern).replace("%", ".*").replace("_", ".")
        if name == user and re.fullmatch(expression, host, re.IGNORECASE):
            return True
    return False

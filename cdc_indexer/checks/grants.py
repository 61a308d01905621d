"""The rights of an account as SHOW GRANTS says them: which are missing, and which are more than needed (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Grant", "Rights", "account_sql", "parse", "quoted"]

_NAME = r"(?:`(?:[^`]|``)*`|\*)"
_GRANT = re.compile(
    rf"GRANT (?P<privileges>.+?) ON (?P<kind>TABLE |FUNCTION |PROCEDURE |PACKAGE |PACKAGE BODY )?"
    rf"(?P<database>{_NAME})\.(?P<name>{_NAME}) TO (?P<rest>.*)"
)
#: A comma between two privileges, not one between the columns of a privilege.
_COMMA = re.compile(r",\s*(?![^(]*\))")

#: MariaDB 10.5 calls it BINLOG MONITOR.
_ALIASES = {"BINLOG MONITOR": "REPLICATION CLIENT"}

_NEEDED_GLOBALLY = ("REPLICATION SLAVE", "REPLICATION CLIENT")


@dataclass(frozen=True, slots=True)
class Grant:
    """One line: privileges on `database`.`name`; ``*`` stands for all. ``shown`` is the object as the server writes it."""

    privileges: frozenset[str]
    database: str
    name: str
    shown: str
    routine: bool = False

    def covers(self, privilege: str, database: str, name: str, fold: bool = False) -> bool:
        """Whether it gives a right on a table (``*``, ``*``: on the server)."""
        if self.routine or not self.privileges & {privilege, "ALL PRIVILEGES"}:
            return False
        if self.database == "*":
            return True
        if database == "*" or not _matches(self.database, database, self.name == "*", fold):
            return False
        return self.name in ("*", name) or (fold and self.name.lower() == name.lower())


def parse(lines: Iterable[str]) -> list[Grant]:
    """SHOW GRANTS, without what gives no right on anything (USAGE, roles, default roles)."""
    grants = []
    for line in lines:
        found = _GRANT.match(line)
        if found is None:
            continue
        privileges = {part.strip() for part in _COMMA.split(found["privileges"])} - {"USAGE"}
        privileges = {_ALIASES.get(privilege, privilege) for privilege in privileges}
        if found["rest"].endswith("WITH GRANT OPTION") or " WITH GRANT OPTION " in found["rest"]:
            privileges.add("GRANT OPTION")
        kind = found["kind"] or ""
        if privileges:
            grants.append(
                Grant(
                    frozenset(privileges),
                    _unquoted(found["database"]),
                    _unquoted(found["name"]),
                    f"{kind if kind != 'TABLE ' else ''}{found['database']}.{found['name']}",
                    routine=kind not in ("", "TABLE "),
                )
            )
    return grants


@dataclass(frozen=True, slots=True)
class Rights:
    """What the service's account may do, against what it needs on ``database`` and its two ``tables``.

    ``account`` as CURRENT_USER() says it; ``fold``: the server takes names of tables in any case.
    """

    account: str
    grants: Sequence[Grant]
    database: str
    tables: tuple[str, ...]
    fold: bool = False

    def missing(self) -> dict[str, str]:
        """Each right that is missing, and the statement that gives it."""
        wanted = {f"SELECT on {table}": ("SELECT", table) for table in self.tables}
        missing = {
            said: f"GRANT {privilege} ON {quoted(self.database)}.{quoted(table)} TO {account_sql(self.account)};"
            for said, (privilege, table) in wanted.items()
            if not any(grant.covers(privilege, self.database, table, self.fold) for grant in self.grants)
        }
        for privilege in _NEEDED_GLOBALLY:
            if not any(grant.covers(privilege, "*", "*") for grant in self.grants):
                missing[privilege] = f"GRANT {privilege} ON *.* TO {account_sql(self.account)};"
        return missing

    @property
    def unlimited(self) -> bool:
        """Whether the account may do everything on the server, or give itself the right to."""
        return any(
            grant.database == "*" and grant.privileges & {"ALL PRIVILEGES", "SUPER", "CREATE USER"}
            for grant in self.grants
        )

    def superfluous(self) -> dict[str, str]:
        """Each set of rights that isn't needed, and the statements that take it away."""
        found = {}
        for grant in self.grants:
            more = grant.privileges - self._needed(grant)
            if not more:
                continue
            statements = []
            if "SELECT" in more or "ALL PRIVILEGES" in more:
                # First what is needed, or the service would stop in between.
                statements = [
                    f"GRANT SELECT ON {quoted(self.database)}.{quoted(table)} TO {account_sql(self.account)};"
                    for table in self.tables
                    if grant.covers("SELECT", self.database, table, self.fold)
                    and not any(
                        other is not grant
                        and other.name == table
                        and other.covers("SELECT", self.database, table, self.fold)
                        for other in self.grants
                    )
                ]
            listed = ", ".join(sorted(more))
            statements.append(f"REVOKE {listed} ON {grant.shown} FROM {account_sql(self.account)};")
            found[f"{listed} on {grant.shown.replace('`', '')}"] = "\n".join(statements)
        return found

    def _needed(self, grant: Grant) -> frozenset[str]:
        if grant.routine:
            return frozenset()
        if grant.database == "*":
            return frozenset(_NEEDED_GLOBALLY)
        ours = any(
            grant.name != "*" and grant.covers("SELECT", self.database, table, self.fold)
            for table in self.tables
        )
        return frozenset({"SELECT"}) if ours else frozenset()


def quoted(name: str) -> str:
    """A name as SQL writes it."""
    return f"`{name.replace('`', '``')}`"


def account_sql(account: str) -> str:
    """``user@host`` as SQL writes it."""
    user, _, host = account.rpartition("@")
    return "@".join("'" + part.replace("\\", "\\\\").replace("'", "''") + "'" for part in (user, host))


def _unquoted(name: str) -> str:
    return name if name == "*" else name[1:-1].replace("``", "`")


def _matches(granted: str, database: str, pattern: bool, fold: bool) -> bool:
    """Whether a granted database is this one: on the level of databases the name is a pattern, as for LIKE."""
    if fold:
        granted, database = granted.lower(), database.lower()
    if not pattern:
        return granted == database
    expression = "".join(
        re.escape(part[1:]) if part.startswith("\\") else {"%": ".*", "_": "."}.get(part, re.escape(part))
        for part in re.findall(r"\\.|.", granted, re.DOTALL)
    )
    return re.fullmatch(expression, database, re.DOTALL) is not None

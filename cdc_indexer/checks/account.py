"""What the service's account may do, and whether anybody else follows the server under our number: findings for `check`."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdc_indexer.checks.archive import ARC5_TABLE
from cdc_indexer.checks.grants import Grant, Rights, account_sql, parse, quoted
from cdc_indexer.checks.retention import MY_CNF, Following, Server
from cdc_indexer.model.errors import IndexerError
from cdc_indexer.model.finding import Finding, failed, later, ok, warning
from cdc_indexer.model.program import command
from cdc_indexer.source.outbox import TABLE, VIEW
from cdc_indexer.source.source import SESSIONS_NEEDED, SESSIONS_WANTED

if TYPE_CHECKING:
    from cdc_indexer.model.settings import DatabaseSettings
    from cdc_indexer.source.session import Session

__all__ = ["Account", "Seen", "look", "run_script"]

_SYSTEM = ("information_schema", "mysql", "performance_schema", "sys")


@dataclass(frozen=True, slots=True)
class Seen:
    """What an administrator's login sees: the server's databases, and what of the script's is in ours."""

    databases: tuple[str, ...]
    installed: frozenset[str]
    arc5: bool


def look(session: Session, name: str) -> Seen | None:
    """``session``: of an administrator, with no database selected. None where it can.t be seen."""
    databases = tuple(str(found) for (found,) in session.rows("SHOW DATABASES") if found not in _SYSTEM)
    grants = parse(str(line) for (line,) in session.rows("SHOW GRANTS"))
    if name not in databases and not any(grant.covers("SHOW DATABASES", "*", "*") for grant in grants):
        return None
    tables = {
        str(table).lower()
        for (table,) in session.rows(
            "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_NAME IN %s",
            (name, (TABLE, VIEW, ARC5_TABLE)),
        )
    }
    return Seen(databases, frozenset(tables & {TABLE, VIEW}), ARC5_TABLE in tables)


def run_script(name: str, arc5: bool | None, *, again: bool = False) -> str:
    """How the SQL file is run in a database; ``arc5`` None: which archive it is isn't known."""
    file = "extras/add_indexer_arc5.sql" if arc5 else "extras/add_indexer.sql"
    words = f"Run the SQL file{' again' if again else ''} ({file}; it may run while the archive is in use)"
    if arc5 is None:
        words += ", for dcm4chee-arc 5 by `sql --arc5` instead of `sql`"
    return f"{words}, as an administrator:\n{command('sql', *(['--arc5'] if arc5 else []))} | mysql {name}"


class Account:
    """The checks of the account with which ``session`` has logged in; ``seen``: what an administrator sees, if one came."""

    def __init__(
        self,
        session: Session,
        database: DatabaseSettings,
        following: Following,
        server: Server,
        seen: Seen | None,
    ) -> None:
        self._session = session
        self._name = database.name
        self._following = following
        self._server = server
        self._seen = seen

    def missing_database(self) -> Finding | None:
        """The database that is set isn't there, or the account's rights are in another; None: neither, or who knows."""
        seen = self._seen
        elsewhere = self._elsewhere()
        if seen is not None:
            if self._is_there(seen.databases):
                return None
            likely = elsewhere or difflib.get_close_matches(self._name, seen.databases, n=1)
            return _misspelt(f"The server has no database {self._name!r}", likely)
        if elsewhere and not any(self._may_read(table) for table in (TABLE, VIEW)):
            said = f"The account's rights are in {' and '.join(map(repr, elsewhere))}, and database.name is {self._name!r}"
            return _misspelt(said, elsewhere)
        return None

    def _is_there(self, databases: tuple[str, ...]) -> bool:
        if self._fold:
            return self._name.lower() in {name.lower() for name in databases}
        return self._name in databases

    def _elsewhere(self) -> list[str]:
        """Databases in which the account may read the table or the view, ours left out."""
        found = {grant.database for grant in self._grants() if grant.name in (TABLE, VIEW)}
        return sorted(found - {self._name})

    def may_not_read(self) -> list[str]:
        """Which of table and view the account may not read."""
        return [table for table in (TABLE, VIEW) if not self._may_read(table)]

    def _may_read(self, table: str) -> bool:
        return any(grant.covers("SELECT", self._name, table, self._fold) for grant in self._grants())

    @property
    def _fold(self) -> bool:
        return self._server.variables.get("lower_case_table_names", "0") != "0"

    def _grants(self) -> list[Grant]:
        return parse(str(line) for (line,) in self._session.rows("SHOW GRANTS"))

    def _own_grants(self) -> list[Grant]:
        """Without those that come by a role or that everybody has (PUBLIC): a REVOKE of those would be an error."""
        try:
            self._session.rows("SET ROLE NONE")
        except IndexerError:  # a server without roles
            return self._grants()
        try:
            return parse(str(line) for (line,) in self._session.rows("SHOW GRANTS FOR CURRENT_USER()"))
        finally:
            self._session.rows("SET ROLE DEFAULT" if not self._server.mariadb else self._default_role())

    def _default_role(self) -> str:
        ((role,),) = self._session.rows(
            "SELECT (SELECT ROLE_NAME FROM information_schema.APPLICABLE_ROLES WHERE IS_DEFAULT = 'YES' LIMIT 1)"
        )
        return f"SET ROLE {quoted(str(role)) if role else 'NONE'}"

    # --- grants ------------------------------------------------------------------------------------------

    def grants(self) -> Iterator[Finding]:
        ((account,),) = self._session.rows("SELECT CURRENT_USER()")
        tables = (TABLE, VIEW)
        rights = Rights(str(account), self._grants(), self._name, tables, fold=self._fold)
        missing = rights.missing()
        if missing:
            yield from self._missing(str(account), missing)
        if rights.unlimited:
            yield self._unlimited(str(account))
            return
        own = Rights(str(account), self._own_grants(), self._name, tables, fold=self._fold)
        if superfluous := own.superfluous():
            yield warning(
                "grants",
                f"The account {account} has more rights than it needs: {'; '.join(superfluous)}.",
                "As an administrator:\n" + "\n".join(superfluous.values()),
            )
        elif not missing:
            yield ok("grants", f"The account {account} has the four rights that it needs, and no other.")

    def _missing(self, account: str, missing: dict[str, str]) -> Iterator[Finding]:
        seen = self._seen
        absent = {table for table in (TABLE, VIEW) if seen is not None and table not in seen.installed}
        before = {said: sql for said, sql in missing.items() if not any(said.endswith(one) for one in absent)}
        if before:
            words = "As an administrator:"
            if seen is None and len(self.may_not_read()) == 2:
                words = (
                    "First the SQL file, if it wasn't run yet: without its table and view the server answers a GRANT with "
                    "error 1146 (`check --admin root` says whether they are there):\n"
                    f"{command('sql')} | mysql {self._name}\n"
                    "For dcm4chee-arc 5: `sql --arc5`. Then, as an administrator:"
                )
            yield failed(
                "grants",
                f"The account {account} lacks {'; '.join(before)}.",
                f"{words}\n" + "\n".join(before.values()),
            )
        elif absent:
            yield later("grants", "table")

    def _unlimited(self, account: str) -> Finding:
        name = quoted(self._name)
        user = account_sql(f"indexer@{account.rpartition('@')[2]}")
        return warning(
            "grants",
            f"The account {account} is an administrator of this server.",
            "Give the service an account of its own, with a password that you choose in place of PASSWORD, and put both "
            "into config.json:\n"
            f"CREATE USER {user} IDENTIFIED BY 'PASSWORD';\n"
            f"GRANT SELECT ON {name}.{TABLE} TO {user};\n"
            f"GRANT SELECT ON {name}.{VIEW} TO {user};\n"
            f"GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {user};",
        )

    def sessions(self) -> Iterator[Finding]:
        """In a session the variable is the account's own limit, where it has one."""
        ((limit,),) = self._session.rows("SELECT @@SESSION.max_user_connections")
        ((account,),) = self._session.rows("SELECT CURRENT_USER()")
        remedy = (
            "As an administrator:\n"
            f"ALTER USER {account_sql(str(account))} WITH MAX_USER_CONNECTIONS {SESSIONS_WANTED};"
        )
        if not int(limit) or int(limit) >= SESSIONS_WANTED:
            yield ok("sessions", f"The account may have {int(limit) or 'any number'} at a time.")
        elif int(limit) >= SESSIONS_NEEDED:
            yield warning(
                "sessions",
                f"The account may have {limit} sessions at a time (MAX_USER_CONNECTIONS): with {SESSIONS_WANTED} nothing "
                "has to wait for another.",
                remedy,
            )
        else:
            yield failed(
                "sessions",
                f"The account may have one session at a time (MAX_USER_CONNECTIONS), and {SESSIONS_NEEDED} are needed: "
                "studies are found by reading the table every few seconds only.",
                remedy,
            )

    # --- who follows the server --------------------------------------------------------------------------

    def server_id(self) -> Iterator[Finding]:
        own, theirs = self._following.server_id, self._server.variables.get("server_id", "")
        if theirs == "0":
            yield failed(
                "server_id",
                "The server has server_id 0, and with that serves its binary log to nobody.",
                MY_CNF.format(lines="server_id = 1"),
            )
            return
        if theirs == str(own):
            yield failed(
                "server_id",
                f"stream.server_id {own} is the server's own.",
                "Set another stream.server_id in config.json, or leave it out: one is derived.",
            )
            return
        replicas = self._replicas()
        if replicas is None:
            yield ok(
                "server_id",
                f"{own}, and the server's is {theirs}; whether another replica has it, this account may not see.",
            )
        elif own in replicas:
            yield failed(
                "server_id",
                f"Another replica of this server has the server_id {own} too: the two would throw each other out.",
                "Stop the other indexer, or give each its own stream.server_id.",
            )
        else:
            yield ok("server_id", f"{own} is free.")

    def _replicas(self) -> set[int] | None:
        """The server_ids of the replicas that are connected; None where the account may not see them.

        Replicas report themselves; this program doesn't, so that none of them is ours.
        """
        old = self._server.mariadb or self._server.version < (8, 0, 22)
        try:
            return {int(row[0]) for row in self._session.rows("SHOW SLAVE HOSTS" if old else "SHOW REPLICAS")}
        except IndexerError:
            return None


def _misspelt(said: str, likely: list[str]) -> Finding:
    if not likely:
        return failed("database.name", f"{said}.", "Put the name of the archive's database into config.json.")
    return failed(
        "database.name", f"{said}.", f'Correct database.name in config.json:\n"name": "{likely[0]}"'
    )

"""What the database server must be for the service to follow it: one finding for each precondition.

Everything is read through sessions that can't write (connection.py), takes no lock, and reads no more rows than a page.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from cdc_indexer.checks import engines, installation, objects
from cdc_indexer.checks.grants import Rights, account_sql, parse, quoted
from cdc_indexer.checks.installation import Check
from cdc_indexer.checks.retention import MY_CNF, Following, Server, expire_lines, period, retention
from cdc_indexer.model.errors import IndexerError
from cdc_indexer.model.finding import Finding, failed, failed_by, ok, warning
from cdc_indexer.source import catalogue
from cdc_indexer.source.errors import address_of
from cdc_indexer.source.outbox import TABLE, VIEW
from cdc_indexer.source.source import SESSIONS_NEEDED, SESSIONS_WANTED, Source

if TYPE_CHECKING:
    from cdc_indexer.model.settings import DatabaseSettings
    from cdc_indexer.source.session import Session

__all__ = ["is_local", "preflight"]

#: No answer of the server is waited for longer.
_ANSWER_SECONDS = 15

#: More than this between our clock and the server's is said.
_CLOCK_SECONDS = 30.0

_OLDEST = {True: (10, 0), False: (5, 6)}


def preflight(
    database: DatabaseSettings, following: Following, administrator: DatabaseSettings | None = None
) -> Iterator[Finding]:
    """Every finding about the database; ``administrator``: the same with a login that sees triggers and routines."""
    began = time.monotonic()
    try:
        with (
            closing(Source(database, read_timeout_seconds=_ANSWER_SECONDS)) as source,
            # Without a right on the database, or without the database, the server still has something to say.
            source.session(database=False) as session,
        ):
            took = (time.monotonic() - began) * 1000
            yield ok("connection", f"User {database.user} is in at {address_of(database)} ({took:.0f} ms).")
            yield from _Preflight(session, database, following).findings()
    except IndexerError as error:
        yield failed_by("connection", error)
        return
    yield from _with_administrator(database, administrator)


def _with_administrator(
    database: DatabaseSettings, administrator: DatabaseSettings | None
) -> Iterator[Finding]:
    if administrator is None:
        yield warning(
            "triggers",
            "Not testable: the service's account may not see triggers, procedures and the event, and shall not.",
            "Run `check --admin root` once; it asks for that login's password.",
        )
        return
    try:
        with (
            closing(Source(administrator, read_timeout_seconds=_ANSWER_SECONDS)) as source,
            source.session() as session,
        ):
            yield from _asked([*objects.objects(session, administrator), *engines.objects(session)])
    except IndexerError as error:
        yield failed(
            "administrator",
            failed_by("administrator", error).message,
            "Give a login that may come from this machine, and its password. A root without one comes by the socket:\n"
            f"sudo CDC_INDEXER_DATABASE__UNIX_SOCKET=/run/mysqld/mysqld.sock cdc-indexer check --admin {administrator.user}",
        )


def _asked(checks: Iterable[Check]) -> Iterator[Finding]:
    """The findings of each check; an error of the server is a finding too, and the other checks go on."""
    for name, check in checks:
        try:
            yield from check()
        except IndexerError as error:
            yield failed_by(name, error)


def is_local(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class _Preflight:
    """The checks of one session of the service's account."""

    def __init__(self, session: Session, database: DatabaseSettings, following: Following) -> None:
        self._session = session
        self._database = database
        self._following = following
        self._server = Server(session.is_mariadb, session.version, {})

    def findings(self) -> Iterator[Finding]:
        checks: list[Check] = [
            ("server", self._read_variables),
            ("TLS", self._tls),
            ("log_bin", self._log_bin),
            ("binlog_format", self._binlog_format),
            ("binlog retention", self._retention),
            ("binlog_row_image", self._row_image),
            ("server_id", self._server_id),
            ("grants", self._grants),
            ("sessions", self._sessions),
        ]
        try:
            self._session.select_database()
            checks += installation.outbox(self._session, self._database, self._following.columns)
            checks += engines.outbox(self._session)
        except IndexerError:
            checks.append(("table", self._select_database))
        checks += [("event_scheduler", self._event_scheduler), ("clock", self._clock)]
        return _asked(checks)

    # --- the server --------------------------------------------------------------------------------------

    def _read_variables(self) -> Iterator[Finding]:
        rows = self._rows(
            "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('version_comment', 'log_bin', 'binlog_format', "
            "'binlog_row_image', 'binlog_expire_logs_seconds', 'binlog_expire_logs_auto_purge', 'expire_logs_days', "
            "'max_binlog_total_size', 'binlog_space_limit', 'server_id', 'event_scheduler', 'lower_case_table_names')"
        )
        self._server.variables.update({str(name).lower(): str(value) for name, value in rows})
        flavour = "MariaDB" if self._server.mariadb else "MySQL"
        if "percona" in self._server.variables.get("version_comment", "").lower():
            flavour = "Percona Server"
        said = f"{flavour} {'.'.join(map(str, self._server.version))}"
        oldest = _OLDEST[self._server.mariadb]
        if self._server.version < oldest:
            yield failed(
                "server",
                f"{said} is older than {'.'.join(map(str, oldest))}, the oldest that this program is written for.",
                "Upgrade the database server.",
            )
        else:
            yield ok("server", f"{said}.")

    def _tls(self) -> Iterator[Finding]:
        tls, said = self._database.tls, self._session.encryption
        if said is not None:
            if tls is not None and not tls.verify:
                yield warning(
                    "TLS",
                    f"Encrypted ({said}), but anyone could stand between: the server's certificate isn't verified.",
                    'Set "verify": true and "ca" to the CA that signed it in database.tls '
                    '("verify": "ca" where the certificate names no host).',
                )
            elif tls is not None and tls.verify == "ca":
                yield ok("TLS", f"Encrypted, and signed by the CA that is set, for whichever host ({said}).")
            else:
                yield ok("TLS", f"Encrypted and verified ({said}).")
        elif self._database.unix_socket or is_local(self._database.host):
            yield ok("TLS", "Not needed: the server is on this machine.")
        else:
            yield warning(
                "TLS",
                "The connection to the database isn't encrypted: patients' names cross the network readable.",
                'Let the server have a certificate, and add to "database" in config.json:\n"tls": {"ca": "/path/to/ca.pem"}',
            )

    def _log_bin(self) -> Iterator[Finding]:
        if self._server.variables.get("log_bin") == "ON":
            yield from self._filters()
            return
        lines = "log_bin          = mysql-bin\nbinlog_format    = ROW\nserver_id        = 1\n"
        yield failed(
            "log_bin",
            "The server writes no binary log: studies are found by reading the table every few seconds only.",
            MY_CNF.format(lines=f"{lines}{expire_lines(self._server)}"),
        )

    def _filters(self) -> Iterator[Finding]:
        """A log that leaves our database out is as good as none."""
        name = self._database.name
        try:
            only, without = (
                {part.strip() for part in listed.split(",") if part.strip()}
                for listed in catalogue.binlog_filters(self._session)
            )
        except IndexerError:  # the right is missing, which is said below
            only, without = set(), set()
        if (only and name not in only) or name in without:
            yield failed(
                "log_bin",
                f"The server's binary log leaves {name} out: studies are found by reading the table now and then only.",
                "Take binlog_do_db and binlog_ignore_db out of my.cnf, and restart the server once.",
            )
        else:
            yield ok("log_bin", "The server writes a binary log.")

    def _binlog_format(self) -> Iterator[Finding]:
        value = self._server.variables.get("binlog_format", "")
        # MySQL is about to drop the variable: then there is nothing but ROW.
        if value in ("ROW", ""):
            yield ok("binlog_format", "ROW.")
            return
        why = (
            "rows don't come by the log"
            if value == "STATEMENT"
            else "the archive's sessions take locks on what a trigger reads"
        )
        yield failed(
            "binlog_format",
            f"binlog_format is {value}: {why}.",
            "As an administrator; sessions that are open, the archive's own, keep the old one until they are opened again:\n"
            "SET GLOBAL binlog_format = 'ROW';\n"
            "And in my.cnf, to keep it:\n[mysqld]\nbinlog_format = ROW",
        )

    def _row_image(self) -> Iterator[Finding]:
        value = self._server.variables.get("binlog_row_image", "FULL")
        yield ok("binlog_row_image", f"{value}; any will do, an INSERT is always logged whole.")

    def _retention(self) -> Iterator[Finding]:
        return retention(self._session, self._server, self._following)

    # --- who follows it ----------------------------------------------------------------------------------

    def _server_id(self) -> Iterator[Finding]:
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
            return {int(row[0]) for row in self._rows("SHOW SLAVE HOSTS" if old else "SHOW REPLICAS")}
        except IndexerError:
            return None

    # --- what the account may do -------------------------------------------------------------------------

    def _grants(self) -> Iterator[Finding]:
        ((account,),) = self._rows("SELECT CURRENT_USER()")
        rights = Rights(
            str(account),
            parse(str(line) for (line,) in self._rows("SHOW GRANTS")),
            self._database.name,
            (TABLE, VIEW),
            fold=self._server.variables.get("lower_case_table_names", "0") != "0",
        )
        missing, superfluous = rights.missing(), rights.superfluous()
        if missing:
            yield failed(
                "grants",
                f"The account {account} lacks {'; '.join(missing)}.",
                "As an administrator:\n" + "\n".join(missing.values()),
            )
        if rights.unlimited:
            name = quoted(self._database.name)
            yield warning(
                "grants",
                f"The account {account} is an administrator of this server.",
                "Give the service an account of its own, and put that into config.json:\n"
                "CREATE USER 'indexer'@'localhost' IDENTIFIED BY '...';\n"
                f"GRANT SELECT ON {name}.{TABLE} TO 'indexer'@'localhost';\n"
                f"GRANT SELECT ON {name}.{VIEW} TO 'indexer'@'localhost';\n"
                "GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO 'indexer'@'localhost';",
            )
        elif superfluous:
            yield warning(
                "grants",
                f"The account {account} has more rights than it needs: {'; '.join(superfluous)}.",
                "As an administrator:\n" + "\n".join(superfluous.values()),
            )
        elif not missing:
            yield ok("grants", f"The account {account} has the four rights that it needs, and no other.")

    def _sessions(self) -> Iterator[Finding]:
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

    # --- the rest ----------------------------------------------------------------------------------------

    def _select_database(self) -> Iterator[Finding]:
        """Says why it can't be selected."""
        self._session.select_database()
        return iter(())

    def _event_scheduler(self) -> Iterator[Finding]:
        value = self._server.variables.get("event_scheduler", "")
        if value == "ON":
            yield ok("event_scheduler", "ON: old rows of study_service are deleted at night.")
            return
        sql = (
            ""
            if value == "DISABLED"
            else "As an administrator:\nSET GLOBAL event_scheduler = ON;\nAnd in my.cnf, to keep it:\n"
        )
        yield warning(
            "event_scheduler",
            f"event_scheduler is {value}: rows of study_service older than 400 days stay.",
            f"{sql}[mysqld]\nevent_scheduler = ON" if sql else MY_CNF.format(lines="event_scheduler = ON"),
        )

    def _clock(self) -> Iterator[Finding]:
        before = datetime.now(timezone.utc)
        ((theirs,),) = self._rows("SELECT UTC_TIMESTAMP(6)")
        after = datetime.now(timezone.utc)
        ours = (before + (after - before) / 2).replace(tzinfo=None)
        difference = (theirs - ours).total_seconds()
        if abs(difference) <= _CLOCK_SECONDS:
            yield ok("clock", f"{abs(difference):.1f} s from the server's.")
        else:
            yield warning(
                "clock",
                f"The server's clock is {period(timedelta(seconds=abs(difference)))} "
                f"{'ahead of' if difference > 0 else 'behind'} ours: ages and delays are wrong by that.",
                "Let both machines take their time from the network:\ntimedatectl set-ntp true",
            )

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        return self._session.rows(sql)

"""What the database server must be for the service to follow it: one finding for each precondition.

Everything is read through sessions that can't write (connection.py), takes no lock, and reads no more rows than a page.
"""

from __future__ import annotations

import ipaddress
import ssl
import time
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pymysql

from cdc_indexer.checks import installation
from cdc_indexer.checks.grants import Rights, parse, quoted
from cdc_indexer.checks.installation import Check
from cdc_indexer.checks.retention import MY_CNF, Following, Server, expire_lines, period, retention
from cdc_indexer.model.errors import IndexerError
from cdc_indexer.model.finding import Finding, failed, failed_by, ok, warning
from cdc_indexer.source import catalogue
from cdc_indexer.source.connection import connect, is_mariadb, server_version
from cdc_indexer.source.errors import translate
from cdc_indexer.source.outbox import TABLE, VIEW

if TYPE_CHECKING:
    from cdc_indexer.model.settings import DatabaseSettings
    from cdc_indexer.source.connection import Connection

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
        # Without a right on the database, or without the database, the server still has something to say.
        connection = connect(database, read_timeout_seconds=_ANSWER_SECONDS, select_database=False)
    except IndexerError as error:
        yield failed_by("connection", error)
        return
    try:
        took = (time.monotonic() - began) * 1000
        where = database.unix_socket or f"{database.host}:{database.port}"
        yield ok("connection", f"User {database.user} is in at {where} ({took:.0f} ms).")
        yield from _Session(connection, database, following).findings()
    finally:
        _close(connection)
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
        connection = connect(administrator, read_timeout_seconds=_ANSWER_SECONDS)
    except IndexerError as error:
        yield failed(
            "administrator",
            failed_by("administrator", error).message,
            "Give a login that may come from this machine, and its password. A root without one comes by the socket:\n"
            f"sudo CDC_INDEXER_DATABASE__UNIX_SOCKET=/run/mysqld/mysqld.sock cdc-indexer check --admin {administrator.user}",
        )
        return
    try:
        yield from _asked(installation.objects(connection, administrator), administrator)
    finally:
        _close(connection)


def _asked(checks: Iterable[Check], database: DatabaseSettings) -> Iterator[Finding]:
    """The findings of each check; an error of the server is a finding too, and the other checks go on."""
    for name, check in checks:
        try:
            yield from check()
        except (pymysql.Error, OSError) as error:
            yield failed_by(name, translate(error, database))
        except IndexerError as error:
            yield failed_by(name, error)


def is_local(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _close(connection: Connection) -> None:
    try:
        connection.close()
    except (pymysql.Error, OSError):
        connection._force_close()  # type: ignore[attr-defined]


class _Session:
    """The checks of one session of the service's account."""

    def __init__(self, connection: Connection, database: DatabaseSettings, following: Following) -> None:
        self._connection = connection
        self._database = database
        self._following = following
        self._server = Server(is_mariadb(connection), server_version(connection), {})

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
        ]
        try:
            self._connection.select_db(self._database.name)
            checks += installation.outbox(self._connection, self._database, self._following.columns)
        except (pymysql.Error, OSError):
            checks.append(("table", self._select_database))
        checks += [("event_scheduler", self._event_scheduler), ("clock", self._clock)]
        return _asked(checks, self._database)

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
        tls, sock = self._database.tls, self._connection._sock  # type: ignore[attr-defined]
        if isinstance(sock, ssl.SSLSocket):
            cipher = sock.cipher()
            said = f"{sock.version()}, {cipher[0] if cipher else 'unknown cipher'}"
            if tls is not None and not tls.verify:
                yield warning(
                    "TLS",
                    f"Encrypted ({said}), but anyone could stand between: the server's certificate isn't verified.",
                    'Set "verify": true and "ca" to the CA that signed it in database.tls.',
                )
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
                for listed in catalogue.binlog_filters(self._connection)
            )
        except pymysql.Error:  # the right is missing, which is said below
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
        return retention(self._connection, self._server, self._following)

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
        except pymysql.Error:
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

    # --- the rest ----------------------------------------------------------------------------------------

    def _select_database(self) -> Iterator[Finding]:
        """Says why it can't be selected."""
        self._connection.select_db(self._database.name)
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
        with self._connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

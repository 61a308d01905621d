"""What the database server must be for the service to follow it: one finding for each precondition.

Everything is read through sessions that can't write (connection.py), takes no lock, and reads no more rows than a page.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdc_indexer.checks import engines, objects
from cdc_indexer.checks.account import Account, Seen, look, run_script
from cdc_indexer.checks.installation import Check, OutboxChecks
from cdc_indexer.checks.retention import MY_CNF, Following, Server, expire_lines, period, retention
from cdc_indexer.model.errors import IndexerError
from cdc_indexer.model.finding import Finding, Status, failed, failed_by, later, ok, warning
from cdc_indexer.model.program import command
from cdc_indexer.source import catalogue
from cdc_indexer.source.errors import address_of
from cdc_indexer.source.outbox import TABLE, VIEW
from cdc_indexer.source.source import Source

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
    seen, refused = _seen(administrator)
    began = time.monotonic()
    try:
        with (
            closing(Source(database, read_timeout_seconds=_ANSWER_SECONDS)) as source,
            # Without a right on the database, or without the database, the server still has something to say.
            source.session(database=False) as session,
        ):
            took = (time.monotonic() - began) * 1000
            yield ok("connection", f"User {database.user} is in at {address_of(database)} ({took:.0f} ms).")
            one = _Preflight(session, database, following, seen)
            yield from one.findings()
    except IndexerError as error:
        yield failed_by("connection", error)
        yield later("database", "connection")
        return
    if administrator is None:
        yield one.hidden()
    elif refused is not None:
        yield refused
    elif one.installed:
        yield from _with_administrator(administrator)
    else:
        yield later("triggers", one.first)


def _seen(administrator: DatabaseSettings | None) -> tuple[Seen | None, Finding | None]:
    """What that login sees, or why it is refused."""
    if administrator is None:
        return None, None
    try:
        with (
            closing(Source(administrator, read_timeout_seconds=_ANSWER_SECONDS)) as source,
            source.session(database=False) as session,
        ):
            return look(session, administrator.name), None
    except IndexerError as error:
        return None, _refused(administrator, error)


def _with_administrator(administrator: DatabaseSettings) -> Iterator[Finding]:
    try:
        with (
            closing(Source(administrator, read_timeout_seconds=_ANSWER_SECONDS)) as source,
            source.session() as session,
        ):
            yield from _asked([*objects.objects(session, administrator), *engines.objects(session)])
    except IndexerError as error:
        yield _refused(administrator, error)


def _refused(administrator: DatabaseSettings, error: IndexerError) -> Finding:
    return failed(
        "administrator",
        failed_by("administrator", error).message,
        f"Give a login that may come from this machine, and its password. {administrators_check(administrator)}",
    )


#: Where Debian, RHEL and MySQL's own packages put it.
_SOCKETS = ("/run/mysqld/mysqld.sock", "/var/lib/mysql/mysql.sock", "/tmp/mysql.sock")  # noqa: S108


def administrators_check(database: DatabaseSettings, user: str = "") -> str:
    """How `check` is typed with an administrator's login. On the database's own machine root mostly comes by the socket."""
    line = command("check", "--admin", user or database.user)
    here = database.unix_socket is None and is_local(database.host)
    socket = next((path for path in _SOCKETS if here and Path(path).is_socket()), None)
    if socket is None:
        return f"Once, with the login of an administrator, whose password is asked for:\n{line}"
    return (
        "As root, who comes by the socket, mostly without a password (then press Enter):\n"
        f"CDC_INDEXER_DATABASE__UNIX_SOCKET={socket} {line}"
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

    def __init__(
        self, session: Session, database: DatabaseSettings, following: Following, seen: Seen | None
    ) -> None:
        self._session = session
        self._database = database
        self._following = following
        self._seen = seen
        self._server = Server(session.is_mariadb, session.version, {})
        self._account = Account(session, database, following, self._server, seen)
        #: What has to be mended before anything of the script's can be judged; empty: nothing.
        self.first = ""
        #: Whether the triggers were seen to record.
        self._records = False

    @property
    def installed(self) -> bool:
        """Whether table and view could be looked at."""
        return not self.first

    def hidden(self) -> Finding:
        """Without an administrator's login."""
        if self.first:
            return later("triggers", self.first)
        if self._records:
            return ok(
                "triggers",
                "They have recorded studies; whether all of them are there, `check --admin root` sees.",
            )
        return warning(
            "triggers",
            "Nobody has looked at them yet: the service's account may not see them, and shall not. This line goes away once "
            "the archive has stored a study.",
            administrators_check(self._database, "root"),
        )

    def findings(self) -> Iterator[Finding]:
        yield from _asked(
            [
                ("server", self._read_variables),
                ("TLS", self._tls),
                ("log_bin", self._log_bin),
                *self._of_the_log(),
            ]
        )
        yield from self._of_the_script()
        yield from _asked(
            [
                ("sessions", self._account.sessions),
                ("event_scheduler", self._event_scheduler),
                ("clock", self._clock),
            ]
        )

    def _of_the_log(self) -> list[Check]:
        checks: list[Check] = [
            ("binlog_format", self._binlog_format),
            ("binlog retention", self._retention),
            ("binlog_row_image", self._row_image),
            ("server_id", self._account.server_id),
        ]
        return [(name, partial(self._with_log, name, check)) for name, check in checks]

    def _with_log(self, name: str, check: Callable[[], Iterable[Finding]]) -> Iterable[Finding]:
        """Without a binary log its settings mean nothing."""
        if self._server.variables.get("log_bin") == "OFF":
            return (later(name, "log_bin"),)
        return check()

    def _of_the_script(self) -> Iterator[Finding]:
        """Database, rights, table, view, in the order in which they are made: what comes after a failure isn't judged."""
        account = self._account
        try:
            wrong = account.missing_database() or self._not_installed()
        except IndexerError as error:
            wrong = failed_by("grants", error)
        if wrong is not None:
            yield wrong
            self.first = wrong.name
        if self.first != "database.name":
            yield from _asked([("grants", account.grants)])
        if not self.first and account.may_not_read():
            self.first = "grants"
        if not self.first:
            try:
                self._session.select_database()
            except IndexerError as error:
                self.first = "database.name"
                yield failed_by(self.first, error)
        if self.first:
            names = ("grants", "table", "view", "recorded studies")
            behind = names[: 1 if self.first == "database.name" else 0] + names[1:]
            yield from (later(name, self.first) for name in behind if name != self.first)
            return
        yield from self._installed()

    def _not_installed(self) -> Finding | None:
        seen, name = self._seen, self._database.name
        missing = [one for one in (TABLE, VIEW) if seen is not None and one not in seen.installed]
        if seen is None or not missing:
            return None
        said = f"The database {name} has no {' and no '.join(missing)}: the SQL file wasn't run there."
        return failed("table", said, run_script(name, seen.arc5))

    def _installed(self) -> Iterator[Finding]:
        failing = ""
        outbox = OutboxChecks(self._session, self._database, self._following.columns)
        for name, check in outbox.all():
            if failing and (failing == "table" or name == "recorded studies"):
                yield later(name, failing)
                continue
            for finding in _asked([(name, check)]):
                yield finding
                if finding.status is Status.FAILED and name in ("table", "view"):
                    failing = name
        self._records = outbox.records
        if failing != "table":
            yield from _asked(engines.outbox(self._session))

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
        yield warning(
            "log_bin",
            "The server writes no binary log: studies are found by reading the table every few seconds, and go out that "
            "much later. No obstacle, until the server can be restarted.",
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
            yield warning(
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

    # --- the rest ----------------------------------------------------------------------------------------

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

"""Connections to the PACS's database that can only read, and what the server's errors mean for us.

Everything that asks the server something goes through :func:`connect`, so that no session of ours can
write, wait long for a lock, or run for ever; and through :func:`translate`, so that an administrator gets
one sentence with the remedy. The server's own texts aren't repeated: they may quote a value of a row.
"""

from __future__ import annotations

import socket
import ssl
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pymysql
from pymysql.constants import FIELD_TYPE
from pymysql.converters import conversions, convert_datetime
from pymysql.cursors import Cursor

from cdc_indexer.errors import (
    ConfigError,
    IndexerError,
    NoBinlog,
    PositionLost,
    SchemaError,
    ServerIdClash,
    SourceError,
)

if TYPE_CHECKING:
    from cdc_indexer.config import DatabaseSettings

    Connection = pymysql.connections.Connection[Cursor]

__all__ = ["connect", "hang_up", "impatient", "is_mariadb", "reading", "server_version", "translate"]

CONNECT_TIMEOUT_SECONDS = 10
READ_TIMEOUT_SECONDS = 60

#: So long a program that is to end waits for the database.
END_PATIENCE_SECONDS = 5.0

#: No query of ours waits longer for a metadata lock (an ALTER that waits in front of us), in seconds.
LOCK_WAIT_TIMEOUT_SECONDS = 5

#: No query of ours runs longer on the PACS's server, in seconds; the client gives up a little later.
STATEMENT_SECONDS = 55

#: A peer that vanished (power, cable, firewall) is noticed by TCP after idle + interval * count seconds.
KEEPALIVE_IDLE_SECONDS = 30
KEEPALIVE_INTERVAL_SECONDS = 10
KEEPALIVE_COUNT = 3

_SCRIPT = "extras/add_indexer.sql (for dcm4chee-arc 5: extras/add_indexer_arc5.sql)"

_GRANT_SELECT = (
    "GRANT SELECT ON `{name}`.study_service TO '{user}'@'...'; and the same ON `{name}`.indexer_study."
)
_REFUSED = (
    "The database at {where} refuses user '{user}': correct database.user and database.password, "
    "or the host that the account may come from."
)
_NO_ROOM = "The server at {where} has no connection left for user '{user}': raise its max_connections."
_LOCKED = "The account '{user}' is locked: ALTER USER '{user}'@'...' ACCOUNT UNLOCK."
_EXPIRED = "The password of '{user}' has expired: ALTER USER '{user}'@'...' PASSWORD EXPIRE NEVER."
_LOGIN_METHOD = (
    "The account '{user}' logs in by a method that isn't supported: "
    "use mysql_native_password, caching_sha2_password or ed25519."
)
_ENDED = "The server at {where} ended the connection (shut down, restarted, or KILL): it's tried again."
_WAITED = "Something holds a lock on the outbox or the view (ALTER, LOCK TABLES): it's tried again."
_TOO_SLOW = f"A query took more than {STATEMENT_SECONDS} s and was given up: it's tried again."

#: The server's and the client library's error numbers -> what they are to us, and the sentence for people.
_MEANING: dict[int, tuple[type[IndexerError], str]] = {
    1045: (SourceError, _REFUSED),
    1698: (SourceError, _REFUSED),  # MariaDB, for accounts of unix_socket
    1044: (SourceError, "User '{user}' may not use the database '{name}': " + _GRANT_SELECT),
    1142: (SourceError, "User '{user}' may not read the outbox or the view: " + _GRANT_SELECT),
    1143: (SourceError, "User '{user}' may not read a column of the outbox or the view: " + _GRANT_SELECT),
    1227: (
        NoBinlog,
        "User '{user}' may not read the binary log: "
        "GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO '{user}'@'...'.",
    ),
    1049: (SourceError, "The server at {where} has no database '{name}': correct database.name."),
    1146: (SchemaError, f"The outbox or the view is missing in '{{name}}': run {_SCRIPT}."),
    1054: (SchemaError, f"The outbox or the view in '{{name}}' has other columns: run {_SCRIPT} again."),
    1176: (SchemaError, "The outbox in '{name}' lacks an index: `check` names it."),
    1356: (
        SchemaError,
        f"The view indexer_study in '{{name}}' is broken (a column or its definer is gone): run {_SCRIPT}.",
    ),
    1040: (SourceError, _NO_ROOM),
    1203: (SourceError, _NO_ROOM),
    1226: (SourceError, _NO_ROOM),
    1129: (
        SourceError,
        "The server at {where} has blocked this machine after many errors: FLUSH HOSTS there.",
    ),
    1130: (
        SourceError,
        "The server at {where} lets nobody in from this machine: CREATE USER for its address.",
    ),
    1251: (SourceError, _LOGIN_METHOD),
    1524: (SourceError, _LOGIN_METHOD),
    2059: (SourceError, _LOGIN_METHOD),
    1820: (SourceError, _EXPIRED),
    1862: (SourceError, _EXPIRED),
    3118: (SourceError, _LOCKED),
    4151: (SourceError, _LOCKED),  # MariaDB
    3159: (SourceError, 'The server accepts encrypted connections only: add "tls": {{}} to database.'),
    1205: (SourceError, _WAITED),
    1213: (SourceError, _WAITED),
    3024: (SourceError, _TOO_SLOW),
    1969: (SourceError, _TOO_SLOW),  # MariaDB
    1053: (SourceError, _ENDED),
    1317: (SourceError, _ENDED),
    1927: (SourceError, _ENDED),  # MariaDB
    4031: (SourceError, _ENDED),
    2006: (SourceError, "The connection to the database at {where} was lost: it's tried again."),
    2013: (SourceError, "The connection to the database at {where} was lost: it's tried again."),
    4052: (  # MariaDB
        ServerIdClash,
        "Another replica with the same server_id took over the stream: stop the other indexer, "
        "or give each its own stream.server_id.",
    ),
}


#: Every session of this process that isn't forgotten, also one that is being opened.
_sessions: weakref.WeakSet[Any] = weakref.WeakSet()
_sessions_lock = threading.Lock()

#: Who has lost a session may open another one.
_GIVE_UP_AGAIN_SECONDS = 0.2


def _moment(text: str) -> Any:
    """As PyMySQL's own converter, in a fifth of its time; it also knows what to do with what isn't a date."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return convert_datetime(text)


_CONVERSIONS: Any = {**conversions, FIELD_TYPE.DATETIME: _moment, FIELD_TYPE.TIMESTAMP: _moment}


def connect(
    database: DatabaseSettings,
    *,
    read_timeout_seconds: float = READ_TIMEOUT_SECONDS,
    isolation: str = "READ COMMITTED",
    autocommit: bool = True,
    select_database: bool = True,
) -> Connection:
    """A session that can only read: utf8mb4, UTC, ``isolation`` as SQL writes it.

    ``autocommit=False`` is for a snapshot of several queries; its caller ends it with ``rollback()``. Without
    ``select_database`` an account that has no right on the database can still follow the binary log.

    Raises what :func:`translate` makes of the server's errors, and ConfigError for the files of ``tls``.
    """
    try:
        connection: Connection = pymysql.Connection(
            host=database.host,
            port=database.port,
            unix_socket=database.unix_socket,
            user=database.user,
            # PyMySQL would encode a str as latin1 and fail on anything beyond it; servers hash UTF-8.
            password=database.password.get_secret_value().encode(),
            database=database.name if select_database else None,
            charset="utf8mb4",
            conv=_CONVERSIONS,
            # A mode of the server such as ANSI_QUOTES must not change what our queries mean.
            sql_mode="",
            autocommit=autocommit,
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            read_timeout=read_timeout_seconds,
            write_timeout=CONNECT_TIMEOUT_SECONDS,
            program_name="cdc_indexer",
            auth_plugin_map=_refused_logins(database),
            defer_connect=True,
            **_tls(database),
        )
        with _sessions_lock:
            _sessions.add(connection)
        if database.unix_socket:
            connection.connect(_unix_socket(database.unix_socket))
        else:
            connection.connect()
    except (pymysql.Error, OSError, RuntimeError) as error:
        raise translate(error, database) from None
    try:
        if database.tls is not None and not isinstance(connection._sock, ssl.SSLSocket):  # type: ignore[attr-defined]
            # PyMySQL before 1.2 goes on in the clear when the server, or whoever is between, offers no TLS.
            raise SourceError(
                "The database server offers no TLS: configure its certificate, or remove database.tls "
                "to talk to it in the clear."
            )
        _keep_alive(connection._sock)  # type: ignore[attr-defined]
        with connection.cursor() as cursor:
            cursor.execute(f"SET SESSION TRANSACTION ISOLATION LEVEL {isolation}, READ ONLY")
            # Each server takes the comment that is written for it: 5.7.8 and later, MariaDB 10.1 and later.
            cursor.execute(
                "SET SESSION time_zone = '+00:00', "
                f"lock_wait_timeout = {LOCK_WAIT_TIMEOUT_SECONDS} "
                f"/*!50708 , max_execution_time = {STATEMENT_SECONDS * 1000} */ "
                f"/*M!100101 , max_statement_time = {STATEMENT_SECONDS} */"
            )
    except (pymysql.Error, OSError) as error:
        connection.close()
        raise translate(error, database) from None
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def reading(database: DatabaseSettings, **options: Any) -> Iterator[Connection]:
    """A short session: connects as :func:`connect` does, translates errors, closes."""
    connection = connect(database, **options)
    try:
        yield connection
    except (pymysql.Error, OSError) as error:
        raise translate(error, database) from None
    finally:
        with suppress(pymysql.Error):  # closed already
            connection.close()


def hang_up(sock: socket.socket | None) -> None:
    """Makes whoever reads from a session's socket fail; from any thread. None, and one that is closed, is let be."""
    if sock is not None:
        # Not SSLSocket.shutdown, which takes the TLS object away from under the reading thread.
        with suppress(OSError):  # the server, or its owner, was quicker
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


@contextmanager
def impatient() -> Iterator[None]:
    """At the end of the program: after END_PATIENCE_SECONDS whatever waits for the database fails, in any thread.

    Over a dead line it would wait for READ_TIMEOUT_SECONDS, and then once more.
    """
    over = threading.Event()

    def give_up() -> None:
        wait = END_PATIENCE_SECONDS
        while not over.wait(wait):
            wait = _GIVE_UP_AGAIN_SECONDS
            with _sessions_lock:
                sessions = list(_sessions)
            for session in sessions:
                hang_up(session._sock)

    threading.Thread(target=give_up, name="giving up", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def is_mariadb(connection: Connection) -> bool:
    return "mariadb" in _version_text(connection).lower()


def server_version(connection: Connection) -> tuple[int, ...]:
    """(major, minor, patch) as the server says it, without MariaDB's old replication prefix ``5.5.5-``."""
    text = _version_text(connection)
    if is_mariadb(connection):
        text = text.removeprefix("5.5.5-")
    numbers = []
    for part in text.split("-")[0].split(".")[:3]:
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def _version_text(connection: Connection) -> str:
    return str(connection.server_version)  # type: ignore[attr-defined]


def translate(error: BaseException, database: DatabaseSettings | None = None) -> IndexerError:
    """What an error of the driver or the server means for this program, as one sentence with the remedy."""
    if isinstance(error, IndexerError):
        return error
    where, user, name = "its address", "the indexer's account", "the PACS's database"
    if database is not None:
        where = str(database.unix_socket or f"{database.host}:{database.port}")
        user, name = database.user, database.name
    if isinstance(error, RuntimeError):  # PyMySQL without the package cryptography
        return SourceError(f"PyMySQL can't log in to the database at {where}: {error}.")
    if not isinstance(error, pymysql.Error):
        return SourceError(f"The database at {where} can't be reached ({_reason(error)}): is it running?")
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = str(error.args[1]) if len(error.args) > 1 else ""
    if code == 1236:
        return _binlog_refused(text)
    if code == 2013 and "timed out" in text:
        return SourceError(f"The database at {where} doesn't answer any more (timed out): it's tried again.")
    if code in (2002, 2003, 2005, 2026):
        return _unreachable(error, where)
    if code in _MEANING:
        kind, sentence = _MEANING[code]
        return kind(sentence.format(where=where, user=user, name=name))
    if code == 0:
        return SourceError(f"The connection to the database at {where} is closed: it's tried again.")
    # Without the server's text: it may quote the value that it stumbled over.
    return SourceError(f"The database at {where} answered with error {code}: see its manual.")


def _binlog_refused(text: str) -> IndexerError:
    """Error 1236 is the server's one number for everything that can be wrong with reading the binary log."""
    low = text.lower()
    if "same server_uuid" in low or "same server_id" in low:
        return ServerIdClash(_MEANING[4052][1])
    if "binary log is not open" in low:
        return NoBinlog("The server writes no binary log: put log_bin into its my.cnf and restart it.")
    if "server_id was not set" in low or "server id was not set" in low:
        return NoBinlog(
            "The server has server_id 0 and serves no binary log: set server_id = 1 in its my.cnf."
        )
    return PositionLost(
        "The server can't serve the binary log from our position (purged, reset or damaged): "
        "a fresh position is taken and the table is read."
    )


def _unreachable(error: pymysql.Error, where: str) -> SourceError:
    cause = getattr(error, "original_exception", None)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return SourceError(
            f"The certificate of the database at {where} can't be verified ({cause.verify_message}): "
            "set database.tls.ca to the CA that signed it."
        )
    if isinstance(cause, ssl.SSLError):
        return SourceError(
            f"TLS with the database server at {where} failed ({cause.reason or 'no reason given'})."
        )
    if cause is None:
        return SourceError(f"The database server at {where} offers no TLS, or the connection to it failed.")
    return SourceError(f"The database at {where} can't be reached ({_reason(cause)}): is it running?")


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or type(error).__name__


def _tls(database: DatabaseSettings) -> dict[str, Any]:
    tls = database.tls
    if tls is None:
        # PyMySQL 1.2 would try TLS without verification on its own: what isn't verified isn't claimed.
        return {"ssl_disabled": True}
    try:
        context = ssl.create_default_context(cafile=_text(tls.ca))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"database.tls.ca can't be read ({_reason(error)}).") from None
    # The certificates that MySQL makes for itself lack what the strict mode of Python 3.13 asks for.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert is not None:
        try:
            context.load_cert_chain(str(tls.cert), _text(tls.key))
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"database.tls.cert or database.tls.key can't be read ({_reason(error)})."
            ) from None
    return {"ssl": context}


class _Refused:
    """Stands for a way of logging in by which whoever asks for it gets the password; PyMySQL would give it to anybody."""

    def __init__(self, _connection: object) -> None:
        pass

    def authenticate(self, _packet: object) -> None:
        raise SourceError(
            "The database server, or somebody on the way to it, asks for the password in the clear: "
            'add "tls": {} to database, or give the account another login method.'
        )


def _refused_logins(database: DatabaseSettings) -> dict[str, Any]:
    """Passwords in the clear go through verified TLS or a socket of this machine only; the hash of MySQL 4.0 nowhere."""
    safe = database.unix_socket is not None or (database.tls is not None and database.tls.verify)
    names = ["mysql_old_password"] if safe else ["mysql_clear_password", "dialog", "mysql_old_password"]
    return dict.fromkeys(names, _Refused)


def _text(path: object) -> str | None:
    return None if path is None else str(path)


def _unix_socket(path: str) -> socket.socket:
    """PyMySQL would leave the socket open when nobody listens."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(CONNECT_TIMEOUT_SECONDS)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def _keep_alive(sock: socket.socket) -> None:
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Linux, the BSDs and Windows name these; what a platform lacks keeps its own default.
    for option, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_SECONDS),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_SECONDS),
        ("TCP_KEEPCNT", KEEPALIVE_COUNT),
    ):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

"""Connections to the PACS's database that can only read.

Everything that asks the server something goes through :func:`connect`, so that no session of ours can
write, wait long for a lock, or run for ever; and its errors through ``translate`` (errors.py), so that an
administrator gets one sentence with the remedy.
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

from cdc_indexer.model.errors import ConfigError, SourceError
from cdc_indexer.source.errors import STATEMENT_SECONDS, reason, translate

if TYPE_CHECKING:
    from cdc_indexer.model.settings import DatabaseSettings

    Connection = pymysql.connections.Connection[Cursor]

__all__ = ["connect", "hang_up", "impatient", "is_mariadb", "reading", "server_version"]

CONNECT_TIMEOUT_SECONDS = 10
READ_TIMEOUT_SECONDS = 60

#: So long a program that is to end waits for the database.
END_PATIENCE_SECONDS = 5.0

#: No query of ours waits longer for a metadata lock (an ALTER that waits in front of us), in seconds.
LOCK_WAIT_TIMEOUT_SECONDS = 5

#: A peer that vanished (power, cable, firewall) is noticed by TCP after idle + interval * count seconds.
KEEPALIVE_IDLE_SECONDS = 30
KEEPALIVE_INTERVAL_SECONDS = 10
KEEPALIVE_COUNT = 3

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


def _tls(database: DatabaseSettings) -> dict[str, Any]:
    tls = database.tls
    if tls is None:
        # PyMySQL 1.2 would try TLS without verification on its own: what isn't verified isn't claimed.
        return {"ssl_disabled": True}
    try:
        context = ssl.create_default_context(cafile=_text(tls.ca))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"database.tls.ca can't be read ({reason(error)}).") from None
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
                f"database.tls.cert or database.tls.key can't be read ({reason(error)})."
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

"""Opens sessions with the PACS's database that can only read (for source.py alone, and what tests try on it).

No session of ours can write, wait long for a lock, or run for ever; and its errors go through ``translate``
(errors.py), so that an administrator gets one sentence with the remedy.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pymysql
from pymysql.constants import FIELD_TYPE
from pymysql.converters import conversions, convert_datetime

from cdc_indexer.model.errors import SourceRefused
from cdc_indexer.source import _driver
from cdc_indexer.source.errors import STATEMENT_SECONDS, reason, translate

if TYPE_CHECKING:
    from cdc_indexer.model.settings import DatabaseSettings
    from cdc_indexer.source._driver import Connection

__all__ = ["connect"]

CONNECT_TIMEOUT_SECONDS = 10
READ_TIMEOUT_SECONDS = 60

#: No query of ours waits longer for a metadata lock (an ALTER that waits in front of us), in seconds.
LOCK_WAIT_TIMEOUT_SECONDS = 5

#: A peer that vanished (power, cable, firewall) is noticed by TCP after idle + interval * count seconds.
KEEPALIVE_IDLE_SECONDS = 30
KEEPALIVE_INTERVAL_SECONDS = 10
KEEPALIVE_COUNT = 3


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
    opening: Callable[[Connection], None] = lambda _: None,
) -> Connection:
    """A session that can only read: utf8mb4, UTC, READ COMMITTED, no database selected.

    Without one an account that has no right on the database can still follow the binary log. ``opening`` is told of the
    session before it is connected, to be able to break it off.

    Raises what :func:`translate` makes of the server's errors, and SourceRefused for the files of ``tls``.
    """
    try:
        connection: Connection = pymysql.Connection(
            host=database.host,
            port=database.port,
            unix_socket=database.unix_socket,
            user=database.user,
            # PyMySQL would encode a str as latin1 and fail on anything beyond it; servers hash UTF-8.
            password=database.password.get_secret_value().encode(),
            charset="utf8mb4",
            conv=_CONVERSIONS,
            # A mode of the server such as ANSI_QUOTES must not change what our queries mean.
            sql_mode="",
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            read_timeout=read_timeout_seconds,
            write_timeout=CONNECT_TIMEOUT_SECONDS,
            program_name="cdc_indexer",
            auth_plugin_map=_refused_logins(database),
            defer_connect=True,
            **_tls(database),
        )
        opening(connection)
        if database.unix_socket:
            connection.connect(_unix_socket(database.unix_socket))
        else:
            connection.connect()
    except (pymysql.Error, OSError, RuntimeError, UnicodeError) as error:
        raise translate(error, database) from None
    try:
        sock = _driver.socket_of(connection)
        if database.tls is not None and not isinstance(sock, ssl.SSLSocket):
            # PyMySQL before 1.2 goes on in the clear when the server, or whoever is between, offers no TLS.
            raise SourceRefused(
                "The database server offers no TLS: configure its certificate, or remove database.tls "
                "to talk to it in the clear."
            )
        if sock is not None:
            _keep_alive(sock)
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY")
            # Each server takes the comment that is written for it: 5.7.8 and later, MariaDB 10.1 and later.
            cursor.execute(
                "SET SESSION time_zone = '+00:00', "
                f"lock_wait_timeout = {LOCK_WAIT_TIMEOUT_SECONDS} "
                f"/*!50708 , max_execution_time = {STATEMENT_SECONDS * 1000} */ "
                f"/*M!100101 , max_statement_time = {STATEMENT_SECONDS} */"
            )
    except (pymysql.Error, OSError) as error:
        _driver.break_off(connection)
        raise translate(error, database) from None
    except BaseException:
        _driver.break_off(connection)
        raise
    return connection


def _tls(database: DatabaseSettings) -> dict[str, Any]:
    tls = database.tls
    if tls is None:
        # PyMySQL 1.2 would try TLS without verification on its own: what isn't verified isn't claimed.
        return {"ssl_disabled": True}
    try:
        context = ssl.create_default_context(cafile=_text(tls.ca))
    except (OSError, ssl.SSLError) as error:
        raise _unreadable("database.tls.ca", error) from None
    # The certificates that MySQL makes for itself lack what the strict mode of Python 3.13 asks for.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if tls.verify is not True:
        context.check_hostname = False
    if tls.verify is False:
        context.verify_mode = ssl.CERT_NONE
    if tls.cert is not None:
        try:
            context.load_cert_chain(str(tls.cert), _text(tls.key))
        except (OSError, ssl.SSLError) as error:
            raise _unreadable("database.tls.cert or database.tls.key", error) from None
    return {"ssl": context}


def _unreadable(what: str, error: OSError) -> SourceRefused:
    why = "it holds no certificate or key" if isinstance(error, ssl.SSLError) else reason(error)
    return SourceRefused(
        f"The file of {what} can't be read ({why}): put it back, or let the service's account read it."
    )


class _Refused:
    """Stands for a way of logging in by which whoever asks for it gets the password; PyMySQL would give it to anybody."""

    def __init__(self, _connection: object) -> None:
        pass

    def authenticate(self, _packet: object) -> None:
        raise SourceRefused(
            "The database server, or somebody on the way to it, asks for the password in the clear: "
            'add "tls": {} to database, or give the account another login method.'
        )


def _refused_logins(database: DatabaseSettings) -> dict[str, Any]:
    """Passwords in the clear go through verified TLS or a socket of this machine only; the hash of MySQL 4.0 nowhere."""
    safe = database.unix_socket is not None or (database.tls is not None and database.tls.verify is True)
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

"""What the errors of the server and of its driver mean for us, as one sentence with the remedy.

The server's own texts aren't repeated: they may quote a value of a row.
"""

from __future__ import annotations

import re
import socket
import ssl
from typing import TYPE_CHECKING

import pymysql

from cdc_indexer.model.errors import (
    IndexerError,
    NoBinlog,
    PositionLost,
    SchemaError,
    ServerIdClash,
    SourceError,
    SourceFull,
    SourceRefused,
)
from cdc_indexer.model.program import SQL

if TYPE_CHECKING:
    from cdc_indexer.model.settings import DatabaseSettings

#: No query of ours runs longer on the PACS's server, in seconds: a session asks for it, and an error says it.
STATEMENT_SECONDS = 55

#: The name of an account ends with a host that only a session knows: `check` has it.
_PASTE = "to the account (`cdc-indexer check` has it to paste)."
_GRANT_SELECT = "GRANT SELECT ON `{name}`.study_service, and the same ON `{name}`.indexer_study, " + _PASTE
_REFUSED = (
    "The database at {where} refuses user '{user}'{seen}: correct database.user and database.password, "
    "or the host that the account may come from{plain}."
)
#: A server says no more than that to an account that has to come encrypted.
_PLAIN = ', or add "tls": {} to database if the account is made with REQUIRE SSL'
_NO_ROOM = "The server at {where} has no connection left for anybody: raise its max_connections."
_LIMITED = (
    "The account '{user}' may have no further session at {where} (MAX_USER_CONNECTIONS): 4 are enough for this program, "
    "it lives with 2: raise that by ALTER USER."
)
_HOURLY = (
    "The account '{user}' has used up what it may do in an hour at {where} ({resource}): "
    "let ALTER USER set {option} to 0 for it."
)
#: What error 1226 names -> the option of ALTER USER.
_RESOURCES = {
    "max_questions": "MAX_QUERIES_PER_HOUR",
    "max_queries_per_hour": "MAX_QUERIES_PER_HOUR",
    "max_updates": "MAX_UPDATES_PER_HOUR",
    "max_updates_per_hour": "MAX_UPDATES_PER_HOUR",
    "max_connections_per_hour": "MAX_CONNECTIONS_PER_HOUR",
}
_LOCKED = "The account '{user}' is locked: unlock it (ALTER USER, ACCOUNT UNLOCK)."
_EXPIRED = "The password of '{user}' has expired: let it not expire (ALTER USER, PASSWORD EXPIRE NEVER)."
_LOGIN_METHOD = (
    "The account '{user}' logs in by a method that isn't supported: "
    "use mysql_native_password or caching_sha2_password."
)
_ED25519 = (
    "The account '{user}' logs in by ed25519, for which a package is missing: pip install 'PyMySQL[ed25519]', "
    "or give the account mysql_native_password."
)
_NO_LOG = "The server writes no binary log: put log_bin into its my.cnf and restart it."
_ENDED = "The server at {where} ended the connection (shut down, restarted, or KILL): it's tried again."
_WAITED = "Something holds a lock on the outbox or the view (ALTER, LOCK TABLES): it's tried again."
_TOO_SLOW = f"A query took more than {STATEMENT_SECONDS} s and was given up: it's tried again."

#: The server's and the client library's error numbers -> what they are to us, and the sentence for people.
_MEANING: dict[int, tuple[type[IndexerError], str]] = {
    1045: (SourceRefused, _REFUSED),
    1698: (SourceRefused, _REFUSED),  # MariaDB, for accounts of unix_socket
    1044: (SourceRefused, "User '{user}' may not use the database '{name}': " + _GRANT_SELECT),
    1142: (SourceRefused, "User '{user}' may not read the outbox or the view: " + _GRANT_SELECT),
    1143: (SourceRefused, "User '{user}' may not read a column of the outbox or the view: " + _GRANT_SELECT),
    1227: (
        NoBinlog,
        "User '{user}' may not read the binary log: GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* "
        + _PASTE,
    ),
    1381: (NoBinlog, _NO_LOG),  # SHOW BINARY LOGS
    1049: (SourceRefused, "The server at {where} has no database '{name}': correct database.name."),
    1146: (SchemaError, f"The outbox or the view is missing in '{{name}}': run {SQL}."),
    1054: (SchemaError, f"The outbox or the view in '{{name}}' has other columns: run {SQL} again."),
    1176: (SchemaError, "The outbox in '{name}' lacks an index: `check` names it."),
    1356: (
        SchemaError,
        f"The view indexer_study in '{{name}}' is broken (a column or its definer is gone): run {SQL}.",
    ),
    1040: (SourceFull, _NO_ROOM),
    1203: (SourceFull, _LIMITED),
    1226: (SourceFull, _LIMITED),
    1129: (
        SourceRefused,
        "The server at {where} has blocked this machine after many errors: FLUSH HOSTS there.",
    ),
    1130: (
        SourceRefused,
        "The server at {where} lets nobody in from this machine{seen}: CREATE USER for that address.",
    ),
    1251: (SourceRefused, _LOGIN_METHOD),
    1524: (SourceRefused, _LOGIN_METHOD),
    2059: (SourceRefused, _LOGIN_METHOD),
    1820: (SourceRefused, _EXPIRED),
    1862: (SourceRefused, _EXPIRED),
    3118: (SourceRefused, _LOCKED),
    4151: (SourceRefused, _LOCKED),  # MariaDB
    3159: (SourceRefused, 'The server accepts encrypted connections only: add "tls": {{}} to database.'),
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


#: The session is over, whatever was asked.
_LOST = frozenset({0, 1053, 1927, 2006, 2013, 2055, 4031})


def is_lost(error: BaseException) -> bool:
    """Whether the session ended under the question: it can't be used again, and the question wasn't at fault."""
    return isinstance(error, OSError) or (isinstance(error, pymysql.Error) and _code_of(error) in _LOST)


def _code_of(error: pymysql.Error) -> int:
    return error.args[0] if error.args and isinstance(error.args[0], int) else 0


def translate(error: BaseException, database: DatabaseSettings | None = None) -> IndexerError:
    """What an error of the driver or the server means for this program, as one sentence with the remedy."""
    if isinstance(error, IndexerError):
        return error
    where, user, name, plain = "its address", "the indexer's account", "the PACS's database", ""
    if database is not None:
        where = address_of(database)
        user, name = database.user, database.name
        plain = _PLAIN if database.tls is None and not database.unix_socket else ""
    if isinstance(error, RuntimeError):  # PyMySQL without the package that a method of logging in needs
        if "nacl" in str(error):
            return SourceRefused(_ED25519.format(user=user))
        return SourceRefused(f"PyMySQL can't log in to the database at {where}: {error}.")
    if isinstance(error, UnicodeError):
        return SourceRefused(f"The database can't be at {where}: correct database.host.")
    if not isinstance(error, pymysql.Error):
        return SourceError(f"The database at {where} can't be reached ({reason(error)}): is it running?")
    code = _code_of(error)
    text = str(error.args[1]) if len(error.args) > 1 else ""
    if code == 1236:
        return _binlog_refused(text)
    if code == 1226 and (resource := next((one for one in _RESOURCES if f"'{one}'" in text), None)):
        option = _RESOURCES[resource]
        return SourceRefused(_HOURLY.format(user=user, where=where, resource=resource, option=option))
    if code == 2013 and "timed out" in text:
        return SourceError(f"The database at {where} doesn't answer any more (timed out): it's tried again.")
    if code in (2002, 2003, 2005, 2026):
        return _unreachable(error, where)
    if code in _MEANING:
        kind, sentence = _MEANING[code]
        return kind(sentence.format(where=where, user=user, name=name, plain=plain, seen=_seen(text)))
    if code == 0:
        return SourceError(f"The connection to the database at {where} is closed: it's tried again.")
    # Without the server's text: it may quote the value that it stumbled over.
    return SourceError(f"The database at {where} answered with error {code}: see its manual.")


#: How the server names who came; the rest of its texts isn't repeated.
_SEEN = re.compile(r"'@'([0-9A-Za-z_.:%-]+)'(?: \(using password: (YES|NO)\))?|^Host '([0-9A-Za-z_.:-]+)'")


def _seen(text: str) -> str:
    """From where the server saw us come: what the account's host is compared with."""
    found = _SEEN.search(text)
    if found is None:
        return ""
    without = ", without a password" if found[2] == "NO" else ""
    return f", which comes from {found[1] or found[3]}{without}" if found[1] else f" ({found[3]})"


def address_of(database: DatabaseSettings) -> str:
    """Where the database is, as people write it."""
    host = f"[{database.host}]" if ":" in database.host else database.host
    return database.unix_socket or f"{host}:{database.port}"


def _binlog_refused(text: str) -> IndexerError:
    """Error 1236 is the server's one number for everything that can be wrong with reading the binary log."""
    low = text.lower()
    if "same server_uuid" in low or "same server_id" in low:
        return ServerIdClash(_MEANING[4052][1])
    if "binary log is not open" in low:
        return NoBinlog(_NO_LOG)
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
        remedy = "set database.tls.ca to the CA that signed it"
        if cause.verify_code in _OTHER_NAME:
            remedy = (
                'connect to it by a name that is in it, or set database.tls.verify to "ca", which asks for the right CA '
                "and not for the name (the certificates that MySQL makes for itself name no host)"
            )
        return SourceRefused(
            f"The certificate of the database at {where} can't be verified ({cause.verify_message}): {remedy}."
        )
    if isinstance(cause, ssl.SSLError):
        return SourceRefused(
            f"TLS with the database server at {where} failed ({cause.reason or 'no reason given'})."
        )
    if isinstance(cause, socket.gaierror):
        return SourceError(
            f"The host name of the database at {where} can't be resolved on this machine: correct database.host, or let its "
            "name service (/etc/hosts) know it."
        )
    if cause is None:
        return SourceRefused(f"The database server at {where} offers no TLS, or the connection to it failed.")
    return SourceError(f"The database at {where} can't be reached ({reason(cause)}): is it running?")


#: X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_OTHER_NAME = frozenset({62, 64})


def reason(error: BaseException) -> str:
    """Why, in two or three words."""
    return getattr(error, "strerror", None) or type(error).__name__

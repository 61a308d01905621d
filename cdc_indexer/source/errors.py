"""What the errors of the server and of its driver mean for us, as one sentence with the remedy.

The server's own texts aren't repeated: they may quote a value of a row.
"""

from __future__ import annotations

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
)

if TYPE_CHECKING:
    from cdc_indexer.model.settings import DatabaseSettings

#: No query of ours runs longer on the PACS's server, in seconds: a session asks for it, and an error says it.
STATEMENT_SECONDS = 55

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
        return SourceError(f"The database at {where} can't be reached ({reason(error)}): is it running?")
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
    return SourceError(f"The database at {where} can't be reached ({reason(cause)}): is it running?")


def reason(error: BaseException) -> str:
    """Why, in two or three words."""
    return getattr(error, "strerror", None) or type(error).__name__

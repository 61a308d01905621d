"""What the server says about itself: who it is, the table's columns, and what its binary log holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from cdc_indexer.model.errors import NoBinlog, PositionLost, SchemaError
from cdc_indexer.model.position import Identity, Position
from cdc_indexer.model.program import SQL

if TYPE_CHECKING:
    from cdc_indexer.source._driver import Connection
    from cdc_indexer.source.session import Session

__all__ = [
    "Column",
    "binlog_end",
    "binlog_filters",
    "binlogs",
    "bytes_behind",
    "columns",
    "fresh_position",
    "holds",
    "identity_of",
    "is_arc5",
    "made_for",
]


class Column(NamedTuple):
    """A column of a table; ``data_type`` is information_schema's, in lower case (``bigint``, ``varchar``)."""

    name: str
    unsigned: bool
    data_type: str


def columns(session: Session, database: str, table: str) -> tuple[Column, ...]:
    """The columns in the order of the table, which is the order of the values in the binary log.

    Raises SchemaError when the table isn't there (or the account has no right on it).
    """
    rows = session.rows(
        "SELECT COLUMN_NAME, COLUMN_TYPE, DATA_TYPE FROM information_schema.COLUMNS "
        "WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s ORDER BY ORDINAL_POSITION",
        (database, table),
    )
    if not rows:
        raise SchemaError(
            f"The table {table} isn't in '{database}', or the account may not see it: "
            f"run {SQL.format(name=database)}, and GRANT SELECT on it."
        )
    return tuple(
        Column(_text(name), "unsigned" in _text(column_type).lower(), _text(data_type).lower())
        for name, column_type, data_type in rows
    )


def made_for(session: Session, database: str) -> str:
    """For which tables of the archive the script has made view and triggers, as it has noted; empty where it hasn't."""
    rows = session.rows(
        "SELECT TABLE_COMMENT FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_NAME = 'study_service'",
        (database,),
    )
    return _text(rows[0][0]) if rows else ""


def is_arc5(said: str) -> bool:
    """Whether that is dcm4chee-arc 5, so that extras/add_indexer_arc5.sql is the script."""
    return said.startswith("dcm4chee-arc 5")


def identity_of(connection: Connection, database: str) -> Identity:
    """Which server this is, as far as it can tell; asked as soon as a session is opened."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SHOW GLOBAL VARIABLES "
            "WHERE Variable_name IN ('server_uuid', 'server_uid', 'server_id', 'hostname')"
        )
        found = {_text(name).lower(): _text(value) for name, value in cursor.fetchall()}
    # A MariaDB that finds no address of a network card calls itself "unknown": so do all of its kind.
    known = (found.get(name) for name in ("server_uuid", "server_uid"))
    server = next((value for value in known if value and value != "unknown"), None)
    if server is None:
        server = f"{found.get('server_id', '')}@{found.get('hostname', '')}"
    return Identity(server=server, database=database)


def binlog_end(session: Session) -> Position:
    """The end of the binary log now: everything committed later lies behind it.

    ``file_created`` is left open; the reader learns it from the file itself.

    Raises NoBinlog when the server writes none; the right that is missing comes as error 1227.
    """
    rows = session.rows(_status_statement(session))
    if not rows:
        raise NoBinlog("The server writes no binary log: put log_bin into its my.cnf and restart it.")
    return Position(file=_text(rows[0][0]), offset=int(rows[0][1]))


def fresh_position(session: Session) -> tuple[Position, tuple[Column, ...] | None]:
    """The end of the binary log now, and the table's columns there; None for them when they aren't certain.

    With them, what is committed after it can be read from the log alone, whatever happens to the table.

    Raises as ``binlog_end``.
    """
    before = _columns_if_there(session)
    position = binlog_end(session)
    # An ALTER between the two readings may lie on either side of the position.
    after = _columns_if_there(session)
    return position, before if before == after else None


def _columns_if_there(session: Session) -> tuple[Column, ...] | None:
    try:
        return columns(session, session.identity.database, session.identity.table)
    except SchemaError:
        return None


def binlog_filters(session: Session) -> tuple[str, str]:
    """The databases that alone are logged, and those that aren't, as the server lists them; the right may be missing."""
    rows = session.rows(_status_statement(session))
    return (_text(rows[0][2]), _text(rows[0][3])) if rows else ("", "")


def holds(session: Session, position: Position) -> None:
    """Raises PositionLost unless the server still has the file and it reaches to the position."""
    for name, size in binlogs(session):
        if name == position.file:
            if size >= position.offset:
                return
            raise PositionLost(
                f"The binary log {position.file} ends at {size}, before our position {position.offset} "
                "(reset, or another server): a fresh position is taken and the table is read."
            )
    raise PositionLost(
        f"The server has no binary log {position.file} any more (purged or reset): "
        "a fresh position is taken and the table is read."
    )


def bytes_behind(session: Session, position: Position) -> int | None:
    """How much binary log lies between the position and the end; None where the server lacks the file."""
    behind: int | None = None
    for name, size in binlogs(session):
        if name == position.file:
            behind = max(0, size - position.offset)
        elif behind is not None:
            behind += size
    return behind


def binlogs(session: Session) -> list[tuple[str, int]]:
    """Every binary log that the server has, oldest first, with its size in bytes."""
    return [(_text(row[0]), int(row[1])) for row in session.rows("SHOW BINARY LOGS")]


def _status_statement(session: Session) -> str:
    # MySQL 8.2 brought the new name, 8.4 took the old one away; MariaDB has the old one only.
    new = not session.is_mariadb and session.version >= (8, 2)
    return "SHOW BINARY LOG STATUS" if new else "SHOW MASTER STATUS"


def _text(value: object) -> str:
    """The catalogue's texts come as bytes from some servers."""
    return value.decode() if isinstance(value, bytes) else str(value)

"""What the server says about itself: who it is, the table's columns, and what its binary log holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cdc_indexer.model.errors import NoBinlog, PositionLost, SchemaError
from cdc_indexer.model.position import Identity, Position
from cdc_indexer.source.connection import is_mariadb, server_version

if TYPE_CHECKING:
    from cdc_indexer.source.connection import Connection

__all__ = [
    "Column",
    "binlog_end",
    "binlog_filters",
    "binlogs",
    "bytes_behind",
    "columns",
    "fresh_position",
    "holds",
    "identity",
]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table; ``data_type`` is information_schema's, in lower case (``bigint``, ``varchar``)."""

    name: str
    unsigned: bool
    data_type: str


def columns(connection: Connection, database: str, table: str) -> tuple[Column, ...]:
    """The columns in the order of the table, which is the order of the values in the binary log.

    Raises SchemaError when the table isn't there (or the account has no right on it).
    """
    rows = _rows(
        connection,
        "SELECT COLUMN_NAME, COLUMN_TYPE, DATA_TYPE FROM information_schema.COLUMNS "
        "WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s ORDER BY ORDINAL_POSITION",
        (database, table),
    )
    if not rows:
        raise SchemaError(
            f"The table {table} isn't in '{database}', or the account may not see it: "
            f"run extras/add_indexer.sql and GRANT SELECT on it."
        )
    return tuple(
        Column(_text(name), "unsigned" in _text(column_type).lower(), _text(data_type).lower())
        for name, column_type, data_type in rows
    )


def identity(connection: Connection, database: str) -> Identity:
    """Which server this is, as far as it can tell."""
    found = {
        _text(name).lower(): _text(value)
        for name, value in _rows(
            connection,
            "SHOW GLOBAL VARIABLES "
            "WHERE Variable_name IN ('server_uuid', 'server_uid', 'server_id', 'hostname')",
        )
    }
    server = found.get("server_uuid") or found.get("server_uid")
    if not server:
        server = f"{found.get('server_id', '')}@{found.get('hostname', '')}"
    return Identity(server=server, database=database)


def binlog_end(connection: Connection) -> Position:
    """The end of the binary log now: everything committed later lies behind it.

    ``file_created`` is left open; the reader learns it from the file itself.

    Raises NoBinlog when the server writes none; the right that is missing comes as error 1227.
    """
    gtid_set: str | None = None
    mariadb = is_mariadb(connection)
    if mariadb:
        # Asked before the offset, so that it can only lag behind it: whoever resumed there would read a
        # transaction again, and never miss one. (BINLOG_GTID_POS is exact, but reads the whole file for it.)
        gtid_set = _text(_rows(connection, "SELECT @@GLOBAL.gtid_binlog_pos")[0][0])
    rows = _rows(connection, _status_statement(connection, mariadb))
    if not rows:
        raise NoBinlog("The server writes no binary log: put log_bin into its my.cnf and restart it.")
    row = rows[0]
    if not mariadb and len(row) > 4:
        gtid_set = _text(row[4]).replace("\n", "")
    return Position(file=_text(row[0]), offset=int(row[1]), gtid_set=gtid_set or None)


def fresh_position(
    connection: Connection, database: str, table: str
) -> tuple[Position, tuple[Column, ...] | None]:
    """The end of the binary log now, and the table's columns there; None for them when they aren't certain.

    With them, what is committed after it can be read from the log alone, whatever happens to the table.

    Raises as ``binlog_end``.
    """
    before = _columns_if_there(connection, database, table)
    position = binlog_end(connection)
    # An ALTER between the two readings may lie on either side of the position.
    after = _columns_if_there(connection, database, table)
    return position, before if before == after else None


def _columns_if_there(connection: Connection, database: str, table: str) -> tuple[Column, ...] | None:
    try:
        return columns(connection, database, table)
    except SchemaError:
        return None


def binlog_filters(connection: Connection) -> tuple[str, str]:
    """The databases that alone are logged, and those that aren't, as the server lists them; the right may be missing."""
    rows = _rows(connection, _status_statement(connection, is_mariadb(connection)))
    return (_text(rows[0][2]), _text(rows[0][3])) if rows else ("", "")


def holds(connection: Connection, position: Position) -> None:
    """Raises PositionLost unless the server still has the file and it reaches to the position."""
    for name, size in binlogs(connection):
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


def bytes_behind(connection: Connection, position: Position) -> int | None:
    """How much binary log lies between the position and the end; None where the server lacks the file."""
    behind: int | None = None
    for name, size in binlogs(connection):
        if name == position.file:
            behind = max(0, size - position.offset)
        elif behind is not None:
            behind += size
    return behind


def binlogs(connection: Connection) -> list[tuple[str, int]]:
    """Every binary log that the server has, oldest first, with its size in bytes."""
    return [(_text(row[0]), int(row[1])) for row in _rows(connection, "SHOW BINARY LOGS")]


def _status_statement(connection: Connection, mariadb: bool) -> str:
    # MySQL 8.2 brought the new name, 8.4 took the old one away; MariaDB has the old one only.
    return (
        "SHOW BINARY LOG STATUS"
        if not mariadb and server_version(connection) >= (8, 2)
        else "SHOW MASTER STATUS"
    )


def _rows(connection: Connection, sql: str, args: tuple[object, ...] | None = None) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, args)
        return list(cursor.fetchall())


def _text(value: object) -> str:
    """The catalogue's texts come as bytes from some servers."""
    return value.decode() if isinstance(value, bytes) else str(value)

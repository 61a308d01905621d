"""Rows of the usual column types, read from the bytes of a WRITE_ROWS event (private to source/).

mysql-replication reads every type there is, in 60 us a row; the outbox's own columns are numbers, texts and times, and
reading these takes a tenth. What has any other column is left to the library.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pymysqlreplication.constants import FIELD_TYPE

_INT_BYTES = {
    FIELD_TYPE.TINY: 1,
    FIELD_TYPE.SHORT: 2,
    FIELD_TYPE.INT24: 3,
    FIELD_TYPE.LONG: 4,
    FIELD_TYPE.LONGLONG: 8,
}
#: Without metadata there is no character set; the table is made with utf8mb4.
_UTF8 = frozenset({None, "utf8", "utf8mb3", "utf8mb4"})

_UNSIGNED, _SIGNED, _TEXT, _MOMENT = range(4)

#: Name, one of the four above, and how many bytes: of the number, of the text's length, of the fraction of a second.
Columns = tuple[tuple[str, int, int], ...]

#: A fraction of one byte counts hundredths, of two bytes ten thousandths, of three microseconds.
_MICROSECONDS = (0, 10_000, 100, 1)


def columns_of(table: Any) -> Columns | None:
    """How to read the rows of a table as mysql-replication describes it; None where a column isn't of a usual type."""
    found: list[tuple[str, int, int]] = []
    for column in table.columns:
        if column.type in _INT_BYTES:
            found.append((column.name, _UNSIGNED if column.unsigned else _SIGNED, _INT_BYTES[column.type]))
        elif column.type in (FIELD_TYPE.VARCHAR, FIELD_TYPE.STRING) and column.character_set_name in _UTF8:
            found.append((column.name, _TEXT, 2 if column.max_length > 255 else 1))
        elif column.type == FIELD_TYPE.DATETIME2:
            found.append((column.name, _MOMENT, (column.fsp + 1) // 2))
        else:
            return None
    return tuple(found)


def read(columns: Columns, data: bytes, at: int, end: int) -> list[dict[str, Any]]:
    """The rows that lie between ``at`` and ``end``, all columns logged; ValueError when they don't end there.

    As the library does it, a moment that Python can't hold ('0000-00-00') is None.
    """
    null_bytes = (len(columns) + 7) // 8
    rows = []
    from_bytes = int.from_bytes
    while at < end:
        nulls = from_bytes(data[at : at + null_bytes], "little")
        at += null_bytes
        values: dict[str, Any] = {}
        for name, kind, size in columns:
            null = nulls & 1
            nulls >>= 1
            if null:
                values[name] = None
            elif kind == _TEXT:
                start = at + size
                at = start + (data[at] if size == 1 else from_bytes(data[at:start], "little"))
                values[name] = data[start:at].decode()
            elif kind == _MOMENT:
                values[name] = _moment(data, at, size)
                at += 5 + size
            else:
                values[name] = from_bytes(data[at : at + size], "little", signed=kind == _SIGNED)
                at += size
        rows.append(values)
    if at != end:
        raise ValueError("a row doesn't end where the event does")
    return rows


def _moment(data: bytes, at: int, fraction_bytes: int) -> datetime | None:
    """A sign, 17 bits of year * 13 + month, 5 of the day, 5 of the hour, 6 of the minute, 6 of the second."""
    packed = int.from_bytes(data[at : at + 5], "big")
    year, month = divmod(packed >> 22 & 0x1FFFF, 13)
    fraction = int.from_bytes(data[at + 5 : at + 5 + fraction_bytes], "big") * _MICROSECONDS[fraction_bytes]
    try:
        return datetime(
            year,
            month,
            packed >> 17 & 31,
            packed >> 12 & 31,
            packed >> 6 & 63,
            packed & 63,
            fraction,
        )
    except ValueError:
        return None

"""Rows for PostgreSQL, made and read (pure), and the statements that carry many at once."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

from pydantic_core import to_json

from central_index.digests import FIELDS, further
from central_index.model import LARGEST_VERSION, Change, Stored
from central_index.versions import Held, Key
from central_index.words import tokens_of


class Write(NamedTuple):
    """One row to be kept: the last of so many versions that came together."""

    change: Change
    new: Held
    versions: int = 1


_TYPES = {field: "bigint" if field.endswith(("_pk", "_series", "_instances")) else "text" for field in FIELDS}
#: Column -> its type. They come as one JSON text, which costs both sides half as much as an array for each column.
_COLUMNS = {
    **_TYPES,
    "more": "text",
    "received_at": "double precision",
    "version": "bigint",
    "key_digest": "text",
    "digest_high": "bigint",
    "digest_low": "bigint",
    "deleted": "boolean",
    "versions": "integer",
    "sorted_at": "text",
    "tokens": "json",
}
_KEPT = [column for column in _COLUMNS if column not in ("tokens", "received_at")]
_WORDS = "array_to_tsvector(ARRAY(SELECT json_array_elements_text(tokens)))"


def _read(columns: Iterable[str]) -> str:
    return ", ".join("decode(key_digest, 'hex')" if column == "key_digest" else column for column in columns)


def _rows(columns: dict[str, str]) -> str:
    return f"json_to_recordset(%s::json) AS new ({', '.join(f'{name} {kind}' for name, kind in columns.items())})"


#: Of each study what the index has; and the database's clock, since the processes' machines may differ.
HELD = """
SELECT wanted.center, wanted.study_iuid, s.version, s.key_digest, s.digest_high, s.digest_low, s.deleted,
    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
FROM unnest(%s::text[], %s::text[]) AS wanted (center, study_iuid)
LEFT JOIN studies AS s ON s.center = wanted.center AND s.study_iuid = wanted.study_iuid
"""
#: Sorted by key, so that two transactions never wait for each other.
UPSERT = f"""
INSERT INTO studies AS kept (id, {", ".join(_KEPT)}, words, first_received_at, received_at)
SELECT id, {_read(_KEPT)}, {_WORDS}, received_at, received_at
-- The ids are in the order of arrival, whatever order the rows are written in.
FROM (SELECT nextval('study_ids') AS id, * FROM {_rows(_COLUMNS)}) AS numbered
ORDER BY center, study_iuid
ON CONFLICT (study_iuid, center) DO UPDATE SET
    {", ".join(f"{column} = excluded.{column}" for column in _KEPT if column not in ("sorted_at", "versions"))},
    words = excluded.words, received_at = excluded.received_at,
    first_received_at = CASE WHEN kept.deleted THEN excluded.received_at ELSE kept.first_received_at END,
    versions = CASE WHEN kept.deleted THEN 0 ELSE kept.versions END + excluded.versions,
    sorted_at = CASE WHEN excluded.study_datetime IS NULL AND NOT excluded.deleted AND NOT kept.deleted
        THEN to_char(to_timestamp(kept.first_received_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')
        ELSE excluded.sorted_at END
-- Nothing is above the highest number of all; without a version the order of arrival decides.
WHERE excluded.version > kept.version OR (excluded.version = {LARGEST_VERSION} AND kept.version = {LARGEST_VERSION})
RETURNING center, study_iuid
"""
#: Rows of another store, with all that it knew of them.
_MOVED = _COLUMNS | {"first_received_at": "double precision"}
_TAKEN = [column for column in _MOVED if column != "tokens"]
MOVE = f"""
INSERT INTO studies AS kept (id, {", ".join(_TAKEN)}, words)
SELECT nextval('study_ids'), {_read(_TAKEN)}, {_WORDS}
FROM {_rows(_MOVED)}
ON CONFLICT (study_iuid, center) DO UPDATE SET
    {", ".join(f"{column} = excluded.{column}" for column in (*_TAKEN, "words"))}
WHERE excluded.version > kept.version
"""


def moved_rows(rows: Sequence[Sequence[Any]]) -> list[str]:
    """The parameters of MOVE, from rows as SQLite has them."""
    moved: list[dict[str, Any]] = []
    for row in rows:
        study = dict(zip(FIELDS, row, strict=False))
        more, received_at, version, key, digest, deleted, first, versions = row[len(FIELDS) :]
        high, low = halves(digest)
        moved.append(
            {
                **study,
                "more": more,
                "received_at": received_at,
                "version": version,
                "key_digest": key.hex() if key is not None else None,
                "digest_high": high,
                "digest_low": low,
                "deleted": bool(deleted),
                "sorted_at": None if deleted else sorted_at(study["study_datetime"], first),
                "tokens": [] if deleted else tokens_of({**further(more), **study}),
                "first_received_at": first,
                "versions": versions,
            }
        )
    return [to_json(moved).decode()]


class Found(NamedTuple):
    """A row of HELD."""

    held: Held | None
    clock: int


def found_from(row: Sequence[Any]) -> tuple[Key, Found]:
    center, study_iuid, version, key_digest, high, low, deleted, clock = row
    held = Held(version, key_digest, joined(high, low), deleted) if version is not None else None
    return (center, study_iuid), Found(held, clock)


def written_rows(writes: Sequence[Write]) -> list[str]:
    """The parameters of UPSERT."""
    return [to_json([_values(write) for write in writes]).decode()]


def _values(write: Write) -> dict[str, Any]:
    change, new, versions = write
    high, low = halves(new.digest)
    values: dict[str, Any] = {
        "received_at": change.received_at,
        "version": new.version,
        "key_digest": new.key_digest.hex() if new.key_digest is not None else None,
        "digest_high": high,
        "digest_low": low,
        "deleted": new.deleted,
        "versions": versions,
        "center": change.center,
        "study_iuid": change.study_iuid,
        "more": "{}",
        "tokens": [],
    }
    if isinstance(change, Stored):
        values |= change.study.__dict__
        if change.study.more:
            values["more"] = json.dumps(change.study.more, ensure_ascii=False)
        values["sorted_at"] = sorted_at(change.study.study_datetime, change.received_at)
        values["tokens"] = tokens_of(change.study.document)
    return values


def sorted_at(study_datetime: str | None, first_received_at: float) -> str:
    """Where a study stands: by its own date, or by that of its arrival."""
    if study_datetime is not None:
        return study_datetime
    return datetime.fromtimestamp(first_received_at, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def halves(digest: bytes | None) -> tuple[int | None, int | None]:
    """As two numbers that PostgreSQL can sum."""
    if digest is None:
        return None, None
    high, low = struct.unpack(">qq", digest)
    return high, low


def joined(high: int | None, low: int | None) -> bytes | None:
    return None if high is None or low is None else struct.pack(">qq", high, low)


def total(highs: int, lows: int, negative_lows: int) -> int:
    """The sum of digests from the sums of their halves, which PostgreSQL takes as signed."""
    return (highs << 64) + lows + (negative_lows << 64)

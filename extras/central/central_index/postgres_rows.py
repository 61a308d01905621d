"""Rows for PostgreSQL, made and read (pure), and the statements that carry many at once."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

from central_index.digests import FIELDS
from central_index.model import LARGEST_VERSION, Change, Stored
from central_index.versions import Held
from central_index.words import tokens_of

Key = tuple[str, str]  # centre, study_iuid


class Write(NamedTuple):
    """One row to be kept."""

    id: int
    change: Change
    new: Held


_TYPES = {field: "bigint" if field.endswith(("_pk", "_series", "_instances")) else "text" for field in FIELDS}
#: Column -> type of its array. Words go as JSON, since an array of arrays must be even.
_COLUMNS = {
    "id": "bigint",
    **_TYPES,
    "more": "text",
    "received_at": "double precision",
    "version": "bigint",
    "key_digest": "bytea",
    "digest_high": "bigint",
    "digest_low": "bigint",
    "deleted": "boolean",
    "sorted_at": "text",
    "tokens": "text",
}
_KEPT = [column for column in _COLUMNS if column not in ("tokens", "received_at")]

HELD = """
SELECT s.center, s.study_iuid, s.version, s.key_digest, s.digest_high, s.digest_low, s.deleted
FROM unnest(%s::text[], %s::text[]) AS wanted (center, study_iuid)
JOIN studies AS s ON s.center = wanted.center AND s.study_iuid = wanted.study_iuid
"""
#: Sorted by key, so that two transactions never wait for each other.
UPSERT = f"""
INSERT INTO studies AS kept ({", ".join(_KEPT)}, words, first_received_at, received_at)
SELECT {", ".join(_KEPT)}, array_to_tsvector(ARRAY(SELECT json_array_elements_text(tokens::json))), received_at, received_at
FROM unnest({", ".join(f"%s::{kind}[]" for kind in _COLUMNS.values())}) AS new ({", ".join(_COLUMNS)})
ORDER BY center, study_iuid
ON CONFLICT (study_iuid, center) DO UPDATE SET
    {", ".join(f"{column} = excluded.{column}" for column in _KEPT if column not in ("id", "sorted_at"))},
    words = excluded.words, received_at = excluded.received_at,
    first_received_at = CASE WHEN kept.deleted THEN excluded.received_at ELSE kept.first_received_at END,
    versions = CASE WHEN kept.deleted THEN 1 ELSE kept.versions + 1 END,
    sorted_at = CASE WHEN excluded.study_datetime IS NULL AND NOT excluded.deleted AND NOT kept.deleted
        THEN to_char(to_timestamp(kept.first_received_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')
        ELSE excluded.sorted_at END
-- Nothing is above the highest number of all; without a version the order of arrival decides.
WHERE excluded.version > kept.version OR (excluded.version = {LARGEST_VERSION} AND kept.version = {LARGEST_VERSION})
RETURNING center, study_iuid
"""
#: Rows of another store, with all that it knew of them.
_MOVED = {name: kind for name, kind in _COLUMNS.items() if name != "id"} | {
    "first_received_at": "double precision",
    "versions": "integer",
}
_TAKEN = [column for column in _MOVED if column != "tokens"]
MOVE = f"""
INSERT INTO studies AS kept (id, {", ".join(_TAKEN)}, words)
SELECT nextval('study_ids'), {", ".join(_TAKEN)}, array_to_tsvector(ARRAY(SELECT json_array_elements_text(tokens::json)))
FROM unnest({", ".join(f"%s::{kind}[]" for kind in _MOVED.values())}) AS new ({", ".join(_MOVED)})
ON CONFLICT (study_iuid, center) DO UPDATE SET
    {", ".join(f"{column} = excluded.{column}" for column in (*_TAKEN, "words"))}
WHERE excluded.version > kept.version
"""


def moved_arrays(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """The parameters of MOVE, from rows as SQLite has them."""
    moved = []
    for row in rows:
        values = row[: len(FIELDS)]
        more, received_at, version, key, digest, deleted, first, versions = row[len(FIELDS) :]
        study = dict(zip(FIELDS, values, strict=True))
        at = None if deleted else sorted_at(study["study_datetime"], first)
        tokens = json.dumps([] if deleted else tokens_of(study))
        known = [more, received_at, version, key, *halves(digest), bool(deleted), at, tokens]
        moved.append([*values, *known, first, versions])
    return [list(column) for column in zip(*moved, strict=True)] or [[] for _ in _MOVED]


def held_from(row: Sequence[Any]) -> tuple[Key, Held]:
    """A row of HELD."""
    center, study_iuid, version, key_digest, high, low, deleted = row
    return (center, study_iuid), Held(version, key_digest, joined(high, low), deleted)


def arrays(writes: Sequence[Write]) -> list[list[Any]]:
    """The parameters of UPSERT."""
    rows = [_values(write) for write in writes]
    return [list(column) for column in zip(*rows, strict=True)]


def _values(write: Write) -> list[Any]:
    number, change, new = write
    if isinstance(change, Stored):
        study = change.study
        values: list[Any] = [getattr(study, field) for field in FIELDS]
        more = json.dumps(study.more, ensure_ascii=False)
        at = sorted_at(study.study_datetime, change.received_at)
        tokens = tokens_of(study.document)
    else:
        known = {"center": change.center, "study_iuid": change.study_iuid}
        values = [known.get(field) for field in FIELDS]
        more, at, tokens = "{}", None, []
    high, low = halves(new.digest)
    return [
        number,
        *values,
        more,
        change.received_at,
        new.version,
        new.key_digest,
        high,
        low,
        new.deleted,
        at,
        json.dumps(tokens),
    ]


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

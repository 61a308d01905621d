"""What archive and index compare, and what is made anew for rows that were changed by hand."""

from __future__ import annotations

from collections.abc import Sequence

from central_index.digests import FIELDS, as_hex, further, range_digest, study_digest
from central_index.model import Range, RangeDigest, TooManyStudies
from central_index.postgres_pool import Connection
from central_index.postgres_rows import halves, joined, sorted_at, total
from central_index.postgres_schema import HASHED
from central_index.words import tokens_of

_REFRESHED_AT_ONCE = 5_000


async def digests(
    connection: Connection, center: str, ranges: Sequence[Range], most_listed: int | None
) -> list[RangeDigest]:
    await refresh(connection, center)
    found: list[RangeDigest] = []
    for after, until in ranges:
        where = "center = %s AND NOT deleted"
        values: list[object] = [center]
        if after is not None:
            where += " AND study_pk > %s"
            values.append(after)
        if until is not None:
            where += " AND study_pk <= %s"
            values.append(until)
        if most_listed is None:
            rows = await connection.execute(
                "SELECT count(*), coalesce(sum(digest_high), 0), coalesce(sum(digest_low), 0),"
                f" count(*) FILTER (WHERE digest_low < 0) FROM studies WHERE {where}",
                values,
            )
            size, highs, lows, negative = (await rows.fetchall())[0]
            found.append(RangeDigest(size, as_hex(total(int(highs), int(lows), negative)), None))
            continue
        rows = await connection.execute(
            f"SELECT study_pk, study_iuid, digest_high, digest_low FROM studies WHERE {where} ORDER BY study_pk LIMIT %s",
            [*values, most_listed + 1],
        )
        listed = [(pk, iuid, joined(high, low) or b"") for pk, iuid, high, low in await rows.fetchall()]
        most_listed -= len(listed)
        if most_listed < 0:
            raise TooManyStudies
        digest = range_digest(one for _, _, one in listed)
        found.append(RangeDigest(len(listed), digest, [(pk, iuid, one.hex()) for pk, iuid, one in listed]))
    return found


async def refresh(connection: Connection, center: str | None) -> None:
    """What is made from a row is made anew for those that were changed by hand; there are hardly ever any."""
    if center is None:
        # What is edited from here on is marked again.
        await connection.execute("DELETE FROM edits")
    whose, values = ("AND center = %s", [center]) if center is not None else ("", [])
    while True:
        rows = await connection.execute(
            f"SELECT first_received_at, {', '.join(HASHED)} FROM studies "
            f"WHERE digest_low IS NULL AND NOT deleted {whose} LIMIT %s FOR UPDATE",
            [*values, _REFRESHED_AT_ONCE],
        )
        found = await rows.fetchall()
        for first_received_at, *known, more in found:
            study = {**further(more), **dict(zip(FIELDS, known, strict=True))}
            await connection.execute(
                "UPDATE studies SET digest_high = %s, digest_low = %s, sorted_at = %s,"
                " words = array_to_tsvector(%s::text[]) WHERE center = %s AND study_iuid = %s",
                [
                    *halves(study_digest(study)),
                    sorted_at(study["study_datetime"], first_received_at),
                    tokens_of(study),
                    study["center"],
                    study["study_iuid"],
                ],
            )
        if len(found) < _REFRESHED_AT_ONCE:
            return

"""What is read from PostgreSQL, inside one transaction each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from psycopg import errors

from central_index.digests import FIELDS, as_hex, range_digest, study_digest
from central_index.model import (
    MOST_COUNTED,
    Arrivals,
    CenterReport,
    Filters,
    Found,
    Place,
    Range,
    RangeDigest,
    TooManyStudies,
)
from central_index.postgres_pool import Connection
from central_index.postgres_rows import halves, joined, sorted_at, total
from central_index.postgres_schema import HASHED
from central_index.shown import COLUMNS, as_json
from central_index.words import (
    accession_mark,
    center_mark,
    id_mark,
    key_mark,
    modality_mark,
    tokens_of,
    words_of,
)

_COLUMNS = ", ".join(COLUMNS)
#: What many studies have is soon found among the newest.
_NEWEST = 5_000
#: What so many have at most is fetched through the index of words and sorted; what more have, by going through all in order.
_FEW = 20_000
#: Unless they are all old: then it is the other way after all.
_ORDERED_MILLISECONDS = 250
_REFRESHED_AT_ONCE = 5_000


async def search(connection: Connection, filters: Filters, at_once: bool = False) -> Found | None:
    """None if rows were changed by hand since, so that they must be refreshed first."""
    if not at_once:
        rows = await connection.execute("SELECT 1 FROM edits LIMIT 1")
        if await rows.fetchone() is not None:
            return None
    tokens = _tokens(filters)
    conditions, values = _conditions(filters)
    if tokens == "":
        return Found([], None, 0, False)
    if tokens is not None:
        conditions += " AND words @@ %s::tsquery"
        values.append(tokens)
    if filters.study_iuid is not None:
        # However many more are given: one UID, a few studies.
        found = await _through_words(connection, filters, conditions, values, None)
        assert found is not None
        return found
    if tokens is None:
        found = await _in_order(connection, filters, conditions, values, None)
        if filters.after is not None:
            return found
        rows = await connection.execute(
            f"SELECT count(*) FROM (SELECT 1 FROM studies WHERE {conditions} LIMIT %s) AS counted",
            [*values, MOST_COUNTED + 1],
        )
        return _with_hits(found, (await rows.fetchall())[0][0])
    found = await _through_words(connection, filters, conditions, values, MOST_COUNTED)
    if found is not None:
        return found
    return await _of_many(connection, filters, conditions, values)


async def _of_many(connection: Connection, filters: Filters, conditions: str, values: Sequence[Any]) -> Found:
    """One page of more than MOST_COUNTED, the likely way first."""
    newest = await _in_order(connection, filters, conditions, values, _NEWEST)
    if newest.following is not None:
        return newest
    found = await _through_words(connection, filters, conditions, values, _FEW)
    if found is not None:
        return found
    try:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL statement_timeout = {_ORDERED_MILLISECONDS}")
            return await _in_order(connection, filters, conditions, values, None)
    except errors.QueryCanceled:
        every = await _through_words(connection, filters, conditions, values, None)
        assert every is not None
        return every


async def _through_words(
    connection: Connection, filters: Filters, conditions: str, values: Sequence[Any], most: int | None
) -> Found | None:
    """All that match, sorted here; None if they are more than ``most``."""
    after = filters.after or (None, None)
    rows = await connection.execute(
        "WITH matching AS MATERIALIZED ("
        f"SELECT sorted_at, id, center, study_iuid FROM studies WHERE {conditions} LIMIT %s"
        ") SELECT (SELECT count(*) FROM matching), sorted_at, id, center, study_iuid FROM matching "
        "WHERE (sorted_at, id) < (%s, %s) OR %s::text IS NULL ORDER BY sorted_at DESC, id DESC LIMIT %s",
        [*values, most and most + 1, *after, after[0], filters.limit + 1],
    )
    places = await rows.fetchall()
    hits = places[0][0] if places else 0
    if most is not None and hits > most:
        return None
    rows = await connection.execute(
        f"SELECT {_COLUMNS} FROM unnest(%s::text[], %s::text[]) AS wanted (of_center, of_study) "
        "JOIN studies ON center = of_center AND study_iuid = of_study "
        "ORDER BY sorted_at DESC, id DESC",
        [[place[3] for place in places], [place[4] for place in places]],
    )
    return _page(await rows.fetchall(), filters, None if filters.after else hits)


async def _in_order(
    connection: Connection, filters: Filters, conditions: str, values: Sequence[Any], most: int | None
) -> Found:
    """Through the index of their order, until the page is full or ``most`` studies were looked at."""
    window, of_window = _window(filters)
    rows = await connection.execute(
        f"SELECT {_COLUMNS} FROM (SELECT * FROM studies WHERE {window} ORDER BY sorted_at DESC, id DESC LIMIT %s) AS newest "
        f"WHERE {conditions} ORDER BY sorted_at DESC, id DESC LIMIT %s"
        if most is not None
        else f"SELECT {_COLUMNS} FROM studies WHERE {window} AND {conditions} ORDER BY sorted_at DESC, id DESC LIMIT %s",
        [*of_window, *([most] if most is not None else []), *values, filters.limit + 1],
    )
    return _page(await rows.fetchall(), filters, None if filters.after else MOST_COUNTED + 1)


def _window(filters: Filters) -> tuple[str, list[Any]]:
    """What bounds the way through their order."""
    bounds = ["NOT deleted"]
    values: list[Any] = []
    if filters.after is not None:
        bounds.append("(sorted_at, id) < (%s, %s)")
        values += filters.after
    if filters.center is not None:
        bounds.append("center = %s")
        values.append(filters.center)
    if filters.from_date is not None:
        bounds.append("sorted_at >= %s")
        values.append(f"{filters.from_date} 00:00:00")
    if filters.to_date is not None:
        bounds.append("sorted_at <= %s")
        values.append(f"{filters.to_date} 23:59:59")
    return " AND ".join(bounds), values


def _page(rows: Sequence[Sequence[Any]], filters: Filters, hits: int | None) -> Found:
    shown = rows[: filters.limit]
    following = Place(shown[-1][1], shown[-1][0]) if len(rows) > filters.limit else None
    return _with_hits(Found([as_json(row) for row in shown], following, None, False), hits)


def _with_hits(found: Found, hits: int | None) -> Found:
    if hits is None:
        return found
    return found._replace(hits=min(hits, MOST_COUNTED), more_hits=hits > MOST_COUNTED)


def _tokens(filters: Filters) -> str | None:
    """The question for the index of words; None where it isn't needed, empty where nothing can match."""
    parts: list[str] = []
    if filters.patient is not None:
        words = words_of(filters.patient)
        if not words:
            return ""
        parts += [f"{_quoted(word)}:*" for word in words]
    if filters.patient_id is not None:
        parts.append(_quoted(id_mark(filters.patient_id)))
    if filters.patient_key is not None:
        parts.append(_quoted(key_mark(filters.patient_key)))
    if filters.accession_number is not None:
        parts.append(_quoted(accession_mark(filters.accession_number)))
    if filters.modality is not None:
        parts.append(_quoted(modality_mark(filters.modality.upper())))
    if parts and filters.center is not None:
        parts.append(_quoted(center_mark(filters.center)))
    # A centre alone has an index in its order.
    return " & ".join(parts) if parts else None


def _quoted(lexeme: str) -> str:
    return "'{}'".format(lexeme.replace("\\", "\\\\").replace("'", "''"))


def _conditions(filters: Filters) -> tuple[str, list[Any]]:
    found: list[tuple[str, object]] = []
    if filters.study_iuid is not None:
        found.append(("study_iuid = %s", filters.study_iuid))
    if filters.center is not None:
        # Only its own partition is looked at.
        found.append(("center = %s", filters.center))
    if filters.only is not None:
        found.append(("center = ANY(%s)", list(filters.only)))
    if filters.from_date is not None:
        found.append(("study_datetime >= %s AND sorted_at >= %s", f"{filters.from_date} 00:00:00"))
    if filters.to_date is not None:
        found.append(("study_datetime <= %s AND sorted_at <= %s", f"{filters.to_date} 23:59:59"))
    conditions = ["NOT deleted", *(condition for condition, _ in found)]
    values = [value for condition, value in found for _ in range(condition.count("%s"))]
    return " AND ".join(conditions), values


async def counts(connection: Connection) -> dict[str, int]:
    rows = await connection.execute("SELECT center, count(*) FROM studies WHERE NOT deleted GROUP BY center")
    return dict(await rows.fetchall())


async def arrivals(connection: Connection, periods: Sequence[tuple[float, float]]) -> dict[str, Arrivals]:
    found: list[dict[str, int]] = []
    for begin, end in periods:
        rows = await connection.execute(
            "SELECT center, count(*) FROM studies "
            "WHERE first_received_at BETWEEN %s AND %s AND NOT deleted GROUP BY center",
            [begin, end],
        )
        found.append(dict(await rows.fetchall()))
    today, before = found
    return {center: Arrivals(today.get(center, 0), before.get(center, 0)) for center in {*today, *before}}


async def newest(connection: Connection, centers: Sequence[str]) -> dict[str, int]:
    rows = await connection.execute(
        "SELECT one, (SELECT max(version) FROM studies WHERE center = one) FROM unnest(%s::text[]) AS one",
        [list(centers)],
    )
    return {center: version for center, version in await rows.fetchall() if version is not None}


async def reports(connection: Connection) -> list[CenterReport]:
    rows = await connection.execute("SELECT center, received_at, content FROM reports ORDER BY center")
    return [
        CenterReport(center, received, json.loads(content))
        for center, received, content in await rows.fetchall()
    ]


# --- digests -------------------------------------------------------------------------------------------------


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
            study = {**json.loads(more), **dict(zip(FIELDS, known, strict=True))}
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

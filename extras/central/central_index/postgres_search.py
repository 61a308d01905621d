"""What is read from PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any, NamedTuple

from psycopg import errors

from central_index.frequencies import Frequencies
from central_index.model import MOST_COUNTED, Arrivals, CenterReport, Filters, Found, Place
from central_index.postgres_pool import Connection
from central_index.postgres_schema import PARTITIONS
from central_index.shown import COLUMNS, as_json
from central_index.words import accession_mark, center_mark, id_mark, key_mark, modality_mark, words_of

_COLUMNS = ", ".join(COLUMNS)
_SORTED_BY = "sorted_at, id, center, study_iuid"
#: In such a way that no index is asked.
_LOOKED_AT = " AND (words @@ %s::tsquery) IS TRUE"
#: More than there will be.
_ALL = 2**62
#: What many studies have is soon found among the newest.
_NEWEST = 5_000
_NARROW = timedelta(days=31)
#: What so many have at most is fetched through the index of words and sorted; what more have, by going through all in order.
_FEW = 20_000
#: What so many times as many studies have as are counted isn't counted.
_SURELY = 20
#: The index of words gathers all that begins with a word, each at a tenth of what a row costs that is read from the
#: table: it isn't asked for words that more than so many times as many studies have as the rarest.
_GATHERED = 10
#: Unless they are all old: then it is the other way after all.
_ORDERED_MILLISECONDS = 500


class _Question(NamedTuple):
    """``words``: what the index of words is asked; ``besides``: further words, looked at in what is found.

    ``exact``: all words without what only begins with them, where each is many studies'. That is answered quickly, and
    enough to say that there are many. ``many``: that is known without being asked. ``gathered``: how many rows the index of
    words gathers for its words.
    """

    conditions: str
    values: list[Any]
    words: str | None
    besides: str | None
    exact: str | None
    many: bool = False
    gathered: float = 0.0

    def where(self, *, by_index: bool = True) -> tuple[str, list[Any]]:
        text, values = self.conditions, list(self.values)
        if self.words is not None:
            text += " AND words @@ %s::tsquery" if by_index else _LOOKED_AT
            values.append(self.words)
        if self.besides is not None:
            text += _LOOKED_AT
            values.append(self.besides)
        return text, values


async def search(
    connection: Connection, filters: Filters, frequencies: Frequencies, at_once: bool = False
) -> Found | None:
    """None if rows were changed by hand since, so that they must be refreshed first."""
    if not at_once:
        rows = await connection.execute("SELECT 1 FROM edits LIMIT 1")
        if await rows.fetchone() is not None:
            return None
    question = _question(filters, frequencies)
    if question is None:
        found = Found([], None, 0, False)
    elif filters.study_iuid is not None:
        # However many more are given: one UID, a few studies.
        every = await _sorted(connection, filters, question, None)
        assert every is not None
        found = every
    elif _is_of_days(filters):
        found = await _of_days(connection, filters)
    elif question.words is None:
        found = await _in_order(connection, filters, question)
    else:
        found = await _with_words(connection, filters, question)
    return found


async def _with_words(connection: Connection, filters: Filters, question: _Question) -> Found:
    """The likely way first."""
    newest: Found | None = None
    if question.exact is not None:
        newest = await _newest(connection, filters, question)
        if newest.following is not None and (newest.more_hits or filters.after is not None):
            return newest
    if newest is None or (not newest.more_hits and _fill_a_page_soon(newest, filters, question)):
        found = await _sorted(connection, filters, question, MOST_COUNTED)
        if found is not None:
            return found
        if newest is None:
            newest = await _newest(connection, filters, question)
        if newest.following is not None:
            return _with_hits(newest, None if filters.after else MOST_COUNTED + 1)
    if not _fill_a_page_soon(newest, filters, question):
        found = await _sorted(connection, filters, question, _FEW)
        if found is not None:
            return found
    try:
        async with connection.transaction():
            # It takes words for rarer than they are, and would rather fetch all that lies in the window and sort it.
            await connection.execute(
                "SELECT set_config('statement_timeout', %s, true), set_config('enable_bitmapscan', 'off', true)",
                [str(_ORDERED_MILLISECONDS)],
            )
            return await _in_order(connection, filters, question, MOST_COUNTED + 1)
    except errors.QueryCanceled:
        every = await _sorted(connection, filters, question, None)
        assert every is not None
        return every


def _fill_a_page_soon(newest: Found, filters: Filters, question: _Question) -> bool:
    """Whether so many of the newest match that to go on in order is quicker than to gather all that match and fetch them."""
    return len(newest.studies) * max(_FEW, question.gathered / _GATHERED) >= (filters.limit + 1) * _NEWEST


async def _sorted(
    connection: Connection, filters: Filters, question: _Question, most: int | None
) -> Found | None:
    """All that match, sorted here; None if they are more than ``most``."""
    where, values = question.where(by_index=filters.study_iuid is None)
    place, of_place = "", list(filters.after or ())
    if of_place:
        place = "WHERE (sorted_at, id) < (%s, %s)"
    # Of many only what they are sorted by is kept; of some all, since to plan another look at each partition takes longer.
    many = filters.study_iuid is None and (most is None or most > MOST_COUNTED)
    whole = "(page JOIN studies AS s ON s.center = page.center AND s.study_iuid = page.study_iuid)"
    rows = await connection.execute(
        f"WITH matching AS MATERIALIZED (SELECT {_SORTED_BY if many else _COLUMNS} FROM studies WHERE {where} LIMIT %s),"
        f" page AS MATERIALIZED (SELECT * FROM matching {place} ORDER BY sorted_at DESC, id DESC LIMIT %s)"
        f" SELECT hits, {', '.join(f's.{column}' for column in COLUMNS)}"
        " FROM (SELECT count(*) AS hits FROM matching) AS counted"
        f" LEFT JOIN {whole if many else 'page AS s'} ON hits <= %s ORDER BY s.sorted_at DESC, s.id DESC",
        [*values, most and most + 1, *of_place, filters.limit + 1, _ALL if most is None else most],
    )
    found = await rows.fetchall()
    hits = found[0][0]
    if most is not None and hits > most:
        return None
    return _page([row[1:] for row in found if row[1] is not None], filters, None if filters.after else hits)


async def _newest(connection: Connection, filters: Filters, question: _Question) -> Found:
    """Looks among the newest only, and whether there are many in all."""
    window, of_window = _window(filters)
    where, values = question.where(by_index=False)
    hits, of_hits = str(MOST_COUNTED + 1 if question.many else 0), []
    if question.exact is not None and filters.after is None and not question.many:
        hits = _counted(f"{question.conditions} AND words @@ %s::tsquery")
        of_hits = [*question.values, question.exact, MOST_COUNTED + 1]
    rows = await connection.execute(
        f"SELECT {hits}, {_COLUMNS} FROM"
        f" (SELECT * FROM studies WHERE {window} ORDER BY sorted_at DESC, id DESC LIMIT %s) AS newest"
        f" WHERE {where} ORDER BY sorted_at DESC, id DESC LIMIT %s",
        [*of_hits, *of_window, _NEWEST, *values, filters.limit + 1],
    )
    return _counted_page(await rows.fetchall(), filters)


async def _in_order(
    connection: Connection, filters: Filters, question: _Question, hits: int | None = None
) -> Found:
    """Through the index of their order, until the page is full; counts, if ``hits`` aren't known."""
    window, of_window = _window(filters)
    where, values = question.where(by_index=False)
    counting, of_counting = str(hits or 0), []
    page = (
        f"SELECT {_COLUMNS} FROM studies WHERE {window} AND {where} ORDER BY sorted_at DESC, id DESC LIMIT %s"
    )
    if hits is None and filters.after is None:
        if filters.from_date or filters.to_date or question.besides:
            # To count them each is looked at, so it is done on the same way.
            rows = await connection.execute(
                f"WITH matching AS MATERIALIZED ({page}) SELECT (SELECT count(*) FROM matching), * FROM matching"
                " ORDER BY sorted_at DESC, id DESC LIMIT %s",
                [*of_window, *values, MOST_COUNTED + 1, filters.limit + 1],
            )
            return _counted_page(await rows.fetchall(), filters)
        counting, of_counting = _counted(where), [*values, MOST_COUNTED + 1]
    rows = await connection.execute(
        f"SELECT {counting}, page.* FROM ({page}) AS page",
        [*of_counting, *of_window, *values, filters.limit + 1],
    )
    return _counted_page(await rows.fetchall(), filters)


async def _of_days(connection: Connection, filters: Filters) -> Found:
    """Through the index of dates alone, which also has what is asked; only what is shown is read from the table."""
    window, of_window = _window(filters)
    where, values = [window], [*of_window]
    if filters.only is not None:
        where.append("center = ANY(%s)")
        values.append(list(filters.only))
    if filters.modality is not None:
        where.append("strpos('\\' || upper(study_modality) || '\\', %s) > 0")
        values.append(f"\\{filters.modality.upper()}\\")
    undated = f"NOT deleted AND study_datetime IS NULL{' AND center = %s' * (filters.center is not None)}"
    values += [*([filters.center] if filters.center is not None else []), *_moments(filters)]
    rows = await connection.execute(
        # OFFSET 0: those without a date, of which the month in which a centre first came has many, are hashed once, and only
        # what has the modality is looked up there.
        "WITH matching AS MATERIALIZED (SELECT sorted_at, id, center FROM"
        f" (SELECT sorted_at, id, center FROM studies WHERE {' AND '.join(where)}"
        " ORDER BY sorted_at DESC, id DESC OFFSET 0) AS of_days"
        f" WHERE id NOT IN (SELECT id FROM studies WHERE {undated} AND sorted_at BETWEEN %s AND %s)"
        " ORDER BY sorted_at DESC, id DESC LIMIT %s),"
        " page AS MATERIALIZED (SELECT * FROM matching ORDER BY sorted_at DESC, id DESC LIMIT %s)"
        f" SELECT (SELECT count(*) FROM matching), {', '.join(f's.{column}' for column in COLUMNS)}"
        " FROM page JOIN studies AS s ON s.center = page.center AND s.sorted_at = page.sorted_at AND s.id = page.id"
        " AND NOT s.deleted ORDER BY s.sorted_at DESC, s.id DESC",
        [*values, MOST_COUNTED + 1 if filters.after is None else filters.limit + 1, filters.limit + 1],
    )
    return _counted_page(await rows.fetchall(), filters)


def _counted(where: str) -> str:
    return f"(SELECT count(*) FROM (SELECT 1 FROM studies WHERE {where} LIMIT %s) AS counted)"


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


def _counted_page(rows: Sequence[Sequence[Any]], filters: Filters) -> Found:
    """Of rows that each begin with the number of hits."""
    hits = rows[0][0] if rows else 0
    return _page([row[1:] for row in rows], filters, None if filters.after else hits)


def _page(rows: Sequence[Sequence[Any]], filters: Filters, hits: int | None) -> Found:
    shown = rows[: filters.limit]
    following = Place(shown[-1][1], shown[-1][0]) if len(rows) > filters.limit else None
    return _with_hits(Found([as_json(row) for row in shown], following, None, False), hits)


def _with_hits(found: Found, hits: int | None) -> Found:
    if hits is None:
        return found
    return found._replace(hits=min(hits, MOST_COUNTED), more_hits=hits > MOST_COUNTED)


def _question(filters: Filters, frequencies: Frequencies) -> _Question | None:
    """None where nothing can match."""
    parts: list[tuple[str, bool]] = []
    if filters.patient is not None:
        words = words_of(filters.patient)
        if not words:
            return None
        parts += [(word, True) for word in words]
    if filters.patient_id is not None:
        parts.append((id_mark(filters.patient_id), False))
    if filters.patient_key is not None:
        parts.append((key_mark(filters.patient_key), False))
    if filters.accession_number is not None:
        parts.append((accession_mark(filters.accession_number), False))
    if filters.modality is not None:
        parts.append((modality_mark(filters.modality.upper()), False))
    often = [part for part in parts if frequencies.often(*part)]
    conditions, values = _conditions(filters, by_date=len(often) == len(parts))
    shares = {part: frequencies.share(*part) for part in parts}
    if len(often) < len(parts):
        most = _GATHERED * min(shares.values())
        gathered = [part for part in parts if part not in often or shares[part] <= most]
        besides = [part for part in parts if part not in gathered]
        return _Question(conditions, values, _asked(gathered), _asked(besides), None)
    if not often or _is_narrow(filters):
        return _Question(conditions, values, None, _asked(often), None)
    # The statistics may be a day old, but not so far from the truth.
    rows = frequencies.studies * sum(shares[part] for part in parts)
    many = len(parts) == 1 and not values and rows > _SURELY * MOST_COUNTED
    if filters.center is not None:
        # A centre alone has an index in its order.
        often.append((center_mark(filters.center), False))
    exact = _asked([(lexeme, False) for lexeme, _ in often])
    return _Question(conditions, values, _asked(often), None, exact, many, rows)


def _is_of_days(filters: Filters) -> bool:
    """Whether the index of dates has all that is asked, of few days."""
    others = (
        filters.patient,
        filters.patient_id,
        filters.patient_key,
        filters.accession_number,
        filters.study_iuid,
    )
    modality = filters.modality or ""
    # Two modalities aren't one, though they may stand side by side.
    return (
        _is_narrow(filters)
        and others == (None,) * len(others)
        and modality.isascii()
        and "\\" not in modality
    )


def _moments(filters: Filters) -> tuple[str, str]:
    return f"{filters.from_date} 00:00:00", f"{filters.to_date} 23:59:59"


def _is_narrow(filters: Filters) -> bool:
    """So few days that to look at each of their studies is quicker than the index of words."""
    if filters.from_date is None or filters.to_date is None:
        return False
    return date.fromisoformat(filters.to_date) - date.fromisoformat(filters.from_date) < _NARROW


def _asked(parts: Sequence[tuple[str, bool]]) -> str | None:
    return " & ".join(_quoted(lexeme) + (":*" if begins else "") for lexeme, begins in parts) or None


def _quoted(lexeme: str) -> str:
    return "'{}'".format(lexeme.replace("\\", "\\\\").replace("'", "''"))


def _conditions(filters: Filters, by_date: bool) -> tuple[str, list[Any]]:
    """``by_date``: so that the index of dates can be used. For rare words it mustn't: of two conditions on one date the
    planner expects a hundredth of what one leaves, and would go through years of studies for one of an id.
    """
    found: list[tuple[str, object]] = []
    if filters.study_iuid is not None:
        found.append(("study_iuid = %s", filters.study_iuid))
    if filters.center is not None:
        # Only its own partition is looked at.
        found.append(("center = %s", filters.center))
    if filters.only is not None:
        found.append(("center = ANY(%s)", list(filters.only)))
    if filters.from_date is not None:
        found.append(
            (f"study_datetime >= %s{' AND sorted_at >= %s' * by_date}", f"{filters.from_date} 00:00:00")
        )
    if filters.to_date is not None:
        found.append(
            (f"study_datetime <= %s{' AND sorted_at <= %s' * by_date}", f"{filters.to_date} 23:59:59")
        )
    conditions = ["NOT deleted", *(condition for condition, _ in found)]
    values = [value for condition, value in found for _ in range(condition.count("%s"))]
    return " AND ".join(conditions), values


async def frequencies(connection: Connection) -> Frequencies:
    """As the last ANALYZE of each partition found them."""
    rows = await connection.execute(
        "SELECT lexeme, sum(share) / %s, min(share) FROM pg_stats,"
        " unnest(most_common_elems::text::text[], most_common_elem_freqs) AS common (lexeme, share)"
        " WHERE schemaname = current_schema() AND tablename LIKE 'studies\\_%%' AND attname = 'words'"
        " AND lexeme IS NOT NULL AND share IS NOT NULL GROUP BY lexeme",
        [PARTITIONS],
    )
    found = await rows.fetchall()
    rows = await connection.execute(
        "SELECT sum(reltuples) FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE inhparent = 'studies'::regclass"
    )
    ((studies,),) = await rows.fetchall()
    least = min((row[2] for row in found), default=0.0)
    return Frequencies({lexeme: share for lexeme, share, _ in found}, least, max(0.0, studies))


async def counts(connection: Connection) -> dict[str, int]:
    # Nobody waits for it long: see `Counted`.
    await connection.execute("SET LOCAL statement_timeout = '10min'")
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

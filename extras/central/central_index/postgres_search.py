"""What is read from PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from psycopg import errors

from central_index.frequencies import Dates, Frequencies
from central_index.model import MOST_COUNTED, Arrivals, CenterReport, Filters, Found, Place
from central_index.postgres_pool import Connection
from central_index.postgres_question import (
    ANEW,
    Plans,
    Question,
    is_of_days,
    moments,
    plans_of,
    question_of,
    window_of,
)
from central_index.postgres_schema import PARTITIONS
from central_index.shown import COLUMNS, as_json
from central_index.words import modalities_of

_COLUMNS = ", ".join(COLUMNS)
_SORTED_BY = "sorted_at, id, center, study_iuid"
#: More than there will be.
_ALL = 2**62
#: What many studies have is soon found among the newest.
_NEWEST = 5_000
#: Words may be so many times as often together as by chance.
_TOGETHER = 20
#: What so many have at most is fetched through the index of words and sorted; what more have, by going through all in order.
_FEW = 20_000
#: What an entry of the index of dates takes, and one row that it leads to; in rows that are read in order.
_OF_INDEX, _LOOKED_UP = 0.1, 2.5
#: Unless they are all old: then it is the other way after all.
_ORDERED_MILLISECONDS = 500


async def search(
    connection: Connection, filters: Filters, frequencies: Frequencies, at_once: bool = False
) -> Found | None:
    """None if rows were changed by hand since, so that they must be refreshed first."""
    question = question_of(filters, frequencies)
    of_days = is_of_days(filters, frequencies)
    by_words = question is not None and question.by_words_alone and not _among_the_newest(filters, question)
    if await _plan(connection, plans_of(filters, of_days=of_days, by_words=by_words)) and not at_once:
        return None
    if question is None:
        found = Found([], None, 0, False)
    elif filters.study_iuid is not None:
        # However many more are given: one UID, a few studies.
        every = await _sorted(connection, filters, question, None)
        assert every is not None
        found = every
    elif of_days:
        found = await _of_days(connection, filters)
    elif question.words is None:
        found = await _in_order(connection, filters, question)
    else:
        found = await _with_words(connection, filters, question)
    return found


async def _plan(connection: Connection, plans: Plans) -> bool:
    """From now on; and whether there are edits, which is asked with it."""
    settings = ", ".join(f"set_config('{name}', %s, false)" for name in plans._fields)
    rows = await connection.execute(f"SELECT EXISTS (SELECT 1 FROM edits), {settings}", plans, prepare=True)
    return bool((await rows.fetchall())[0][0])


async def _with_words(connection: Connection, filters: Filters, question: Question) -> Found:
    """The likely ways first; then in order, and if that takes too long all that match."""
    likely = _newest_first if _among_the_newest(filters, question) else _words_first
    found = await likely(connection, filters, question)
    if found is not None:
        return found
    try:
        async with connection.transaction():
            # It takes words for rarer than they are, and would rather fetch all that lies in the window and sort it.
            await connection.execute(
                "SELECT set_config('statement_timeout', %s, true), set_config('enable_bitmapscan', 'off', true)",
                [str(_ORDERED_MILLISECONDS)],
            )
            if _by_modality(filters):
                return await _in_order_of_modality(connection, filters, question)
            return await _in_order(connection, filters, question, MOST_COUNTED + 1)
    except errors.QueryCanceled:
        every = await _sorted(connection, filters, question, None)
        assert every is not None
        return every


def _among_the_newest(filters: Filters, question: Question) -> bool:
    """Whether a page of them may be: of a rare word, or of two that few have, all are fetched at once."""
    return question.exact is not None and question.part * _NEWEST * _TOGETHER >= filters.limit


async def _words_first(connection: Connection, filters: Filters, question: Question) -> Found | None:
    found = await _sorted(connection, filters, question, _FEW)
    if found is not None:
        return found
    await _plan(connection, ANEW)
    newest = await _newest(connection, filters, question)
    return _with_many_hits(newest, filters) if newest.following is not None else None


async def _newest_first(connection: Connection, filters: Filters, question: Question) -> Found | None:
    newest = await _newest(connection, filters, question)
    if newest.following is not None and (newest.more_hits or filters.after is not None):
        return newest
    if not _fill_a_page_soon(newest, filters, question):
        return await _sorted(connection, filters, question, _FEW)
    if newest.more_hits:
        return None
    found = await _sorted(connection, filters, question, MOST_COUNTED)
    if found is None and newest.following is not None:
        return _with_many_hits(newest, filters)
    return found


def _fill_a_page_soon(newest: Found, filters: Filters, question: Question) -> bool:
    """Whether so many of the newest match that to go on in order is quicker than to gather all that match and fetch them."""
    fetching = question.fetching if question.pairs is not None else max(_FEW, question.fetching)
    if _by_modality(filters):
        # What has another modality isn't read, and the others are looked up one by one.
        fetching /= _OF_INDEX + _LOOKED_UP * question.of_modality
    return len(newest.studies) * fetching >= (filters.limit + 1) * _NEWEST


def _by_modality(filters: Filters) -> bool:
    """Whether the index of dates says which studies have it."""
    return filters.modality is not None and filters.modality.isascii()


async def _sorted(
    connection: Connection, filters: Filters, question: Question, most: int | None
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
        prepare=True if most == _FEW else None,
    )
    found = await rows.fetchall()
    hits = found[0][0]
    if most is not None and hits > most:
        return None
    return _page([row[1:] for row in found if row[1] is not None], filters, None if filters.after else hits)


async def _newest(connection: Connection, filters: Filters, question: Question) -> Found:
    """Looks among the newest only, and whether there are many in all."""
    window, of_window = window_of(filters)
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
    connection: Connection, filters: Filters, question: Question, hits: int | None = None
) -> Found:
    """Through the index of their order, until the page is full; counts, if ``hits`` aren't known."""
    window, of_window = window_of(filters)
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


async def _in_order_of_modality(connection: Connection, filters: Filters, question: Question) -> Found:
    """Through the index of dates, until the page is full; of many. Only what has the modality is read from the table."""
    window, of_window = window_of(filters)
    where, values = question.where(by_index=False)
    has, of_has = _has_modality(filters)
    rows = await connection.execute(
        f"SELECT {MOST_COUNTED + 1}, found.* FROM"
        # OFFSET 0: in this order and one by one, whatever the planner expects.
        " (SELECT center, sorted_at, id FROM (SELECT center, sorted_at, id, study_modality FROM studies"
        f" WHERE {window} ORDER BY sorted_at DESC, id DESC OFFSET 0) AS dated WHERE {has}"
        " ORDER BY sorted_at DESC, id DESC OFFSET 0) AS one,"
        f" LATERAL (SELECT {_COLUMNS} FROM studies"
        f" WHERE center = one.center AND sorted_at = one.sorted_at AND id = one.id AND {where} OFFSET 0) AS found"
        " ORDER BY one.sorted_at DESC, one.id DESC LIMIT %s",
        [*of_window, *of_has, *values, filters.limit + 1],
    )
    return _counted_page(await rows.fetchall(), filters)


def _has_modality(filters: Filters) -> tuple[str, list[str]]:
    """By what the index of dates holds of it."""
    modalities = modalities_of(filters.modality or "")
    conditions = ["strpos('\\' || upper(study_modality) || '\\', %s) > 0"] * len(modalities)
    return " AND ".join(conditions), [f"\\{one}\\" for one in modalities]


async def _of_days(connection: Connection, filters: Filters) -> Found:
    """Through the index of dates alone, which also has what is asked; only what is shown is read from the table."""
    window, of_window = window_of(filters)
    where, values = [window], [*of_window]
    if filters.only is not None:
        where.append("center = ANY(%s)")
        values.append(list(filters.only))
    if filters.modality is not None:
        has, of_has = _has_modality(filters)
        where.append(has)
        values += of_has
    undated = f"NOT deleted AND study_datetime IS NULL{' AND center = %s' * (filters.center is not None)}"
    values += [*([filters.center] if filters.center is not None else []), *moments(filters)]
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
        prepare=True,
    )
    return _counted_page(await rows.fetchall(), filters)


def _counted(where: str) -> str:
    return f"(SELECT count(*) FROM (SELECT 1 FROM studies WHERE {where} LIMIT %s) AS counted)"


def _counted_page(rows: Sequence[Sequence[Any]], filters: Filters) -> Found:
    """Of rows that each begin with the number of hits."""
    hits = rows[0][0] if rows else 0
    return _page([row[1:] for row in rows], filters, None if filters.after else hits)


def _page(rows: Sequence[Sequence[Any]], filters: Filters, hits: int | None) -> Found:
    shown = rows[: filters.limit]
    following = Place(shown[-1][1], shown[-1][0]) if len(rows) > filters.limit else None
    return _with_hits(Found([as_json(row) for row in shown], following, None, False), hits)


def _with_many_hits(found: Found, filters: Filters) -> Found:
    return _with_hits(found, None if filters.after else MOST_COUNTED + 1)


def _with_hits(found: Found, hits: int | None) -> Found:
    if hits is None:
        return found
    return found._replace(hits=min(hits, MOST_COUNTED), more_hits=hits > MOST_COUNTED)


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
    least = min((row[2] for row in found), default=0.0)
    rows = await connection.execute(
        "SELECT reltuples, most_common_vals::text::text[], most_common_freqs, histogram_bounds::text::text[]"
        " FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
        " JOIN pg_stats ON relname = tablename AND nspname = schemaname"
        " WHERE schemaname = current_schema() AND tablename LIKE 'studies\\_%' AND attname = 'sorted_at'"
    )
    parts = await rows.fetchall()
    # Not while it is built, nor before a standby has it.
    rows = await connection.execute(
        "SELECT EXISTS (SELECT 1 FROM pg_index WHERE indexrelid = to_regclass('studies_by_pairs') AND indisvalid)"
    )
    ((pairs,),) = await rows.fetchall()
    shares = {lexeme: share for lexeme, share, _ in found}
    studies = sum(part[0] for part in parts)
    return Frequencies(shares, least, studies, [Dates(*part) for part in parts], pairs)


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

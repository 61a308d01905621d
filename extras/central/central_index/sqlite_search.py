"""What is read from the SQLite file; each function gets a connection that sees one state throughout."""

from __future__ import annotations

import json
import re
import sqlite3
import unicodedata
from collections.abc import Sequence
from typing import Any

from central_index.digests import range_digest
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
from central_index.shown import COLUMNS, as_json
from central_index.sqlite_schema import HASHED, digest_of_row
from central_index.words import modalities_of

#: A window of so few studies is gone through; in a larger one the words are asked first.
_NARROW = 5_000
_BY_WORDS = "study_words WHERE study_words MATCH ?"
_IN_ORDER = "studies INDEXED BY studies_in_order"
_IDS = "id IN (SELECT value FROM json_each(?))"
#: For a beginning that most studies have, so many of the newest are looked at without the index of words.
_NEWEST = 2_500
_SHORT = re.compile(r"[A-Za-z0-9]{1,2}")


def search(connection: sqlite3.Connection, filters: Filters) -> Found:
    conditions, values = _conditions(filters)
    words = _words(filters)
    source = "studies"
    hits = None
    by_words = words is not None and filters.patient is not None
    if words is not None and not _is_narrow(connection, filters):
        newest = _among_the_newest(connection, filters, conditions, values)
        if newest is not None:
            conditions, values = _IDS, [json.dumps(newest[: filters.limit + 1])]
            hits = MOST_COUNTED + 1
            by_words = False
        else:
            # No more than are counted, in the order of their ids: the words of many aren't all fetched.
            rows = connection.execute(
                f"SELECT id FROM (SELECT rowid AS found FROM {_BY_WORDS}) CROSS JOIN studies ON id = found "
                f"WHERE {conditions} LIMIT ?",
                [words, *values, MOST_COUNTED + 1],
            ).fetchall()
            hits = len(rows)
            if hits <= MOST_COUNTED:
                conditions, values = _IDS, [json.dumps([one for (one,) in rows])]
                by_words = False
            else:
                # What many have is found sooner by going through all in order.
                source = _IN_ORDER
    if by_words:
        # (With + it isn't what is gone through.)
        conditions += f" AND +id IN (SELECT rowid FROM {_BY_WORDS})"
        values.append(words)
    if hits is None and filters.after is None:
        (hits,) = connection.execute(
            f"SELECT count(*) FROM (SELECT 1 FROM {source} WHERE {conditions} LIMIT ?)",
            [*values, MOST_COUNTED + 1],
        ).fetchone()
    if filters.after is not None:
        hits = None
        conditions += " AND (sorted_at, id) < (?, ?)"
        values += filters.after
    rows = connection.execute(
        f"SELECT {', '.join(COLUMNS)} FROM {source} WHERE {conditions} ORDER BY sorted_at DESC, id DESC LIMIT ?",
        [*values, filters.limit + 1],
    ).fetchall()
    # One more than asked for says whether there is another page.
    shown = rows[: filters.limit]
    following = Place(shown[-1][1], shown[-1][0]) if len(rows) > filters.limit else None
    studies = [as_json(row) for row in shown]
    if hits is None:
        return Found(studies, following, None, False)
    return Found(studies, following, min(hits, MOST_COUNTED), hits > MOST_COUNTED)


def counts(connection: sqlite3.Connection) -> dict[str, int]:
    return dict(connection.execute("SELECT center, count(*) FROM studies WHERE NOT deleted GROUP BY center"))


def arrivals(connection: sqlite3.Connection, periods: Sequence[tuple[float, float]]) -> dict[str, Arrivals]:
    found: list[dict[str, int]] = []
    for begin, end in periods:
        rows = connection.execute(
            "SELECT center, count(*) FROM studies WHERE first_received_at BETWEEN ? AND ? AND NOT deleted GROUP BY center",
            (begin, end),
        )
        found.append(dict(rows.fetchall()))
    today, before = found
    return {center: Arrivals(today.get(center, 0), before.get(center, 0)) for center in {*today, *before}}


def newest(connection: sqlite3.Connection, centers: Sequence[str]) -> dict[str, int]:
    query = "SELECT max(version) FROM studies WHERE center = ?"
    found = {center: connection.execute(query, (center,)).fetchone()[0] for center in centers}
    return {center: version for center, version in found.items() if version is not None}


def digests(
    connection: sqlite3.Connection, center: str, ranges: Sequence[Range], most_listed: int | None
) -> list[RangeDigest]:
    found: list[RangeDigest] = []
    for after, until in ranges:
        where = "center = ? AND NOT deleted"
        values: list[object] = [center]
        if after is not None:
            where += " AND study_pk > ?"
            values.append(after)
        if until is not None:
            where += " AND study_pk <= ?"
            values.append(until)
        if most_listed is None:
            known = [
                row[0] for row in connection.execute(f"SELECT digest FROM studies WHERE {where}", values)
            ]
            if None in known:
                # Changed by hand. These few are made from what is stored now.
                rows = connection.execute(
                    f"SELECT {', '.join(HASHED)} FROM studies WHERE {where} AND digest IS NULL", values
                )
                known = [digest for digest in known if digest is not None]
                known += [digest_of_row(*row) for row in rows]
            found.append(RangeDigest(len(known), range_digest(known), None))
            continue
        rows = connection.execute(
            f"SELECT study_pk, study_iuid, digest, {', '.join(HASHED)} FROM studies "
            f"WHERE {where} ORDER BY study_pk LIMIT ?",
            [*values, most_listed + 1],
        )
        listed = [(pk, iuid, digest or digest_of_row(*row)) for pk, iuid, digest, *row in rows]
        most_listed -= len(listed)
        if most_listed < 0:
            raise TooManyStudies
        total = range_digest(digest for _, _, digest in listed)
        found.append(RangeDigest(len(listed), total, [(pk, iuid, one.hex()) for pk, iuid, one in listed]))
    return found


def reports(connection: sqlite3.Connection) -> list[CenterReport]:
    rows = connection.execute("SELECT center, received_at, content FROM reports ORDER BY center")
    return [CenterReport(center, moment, json.loads(content)) for center, moment, content in rows]


def _conditions(filters: Filters) -> tuple[str, list[Any]]:
    found: list[tuple[str, object]] = []
    for column in ("patient_id", "patient_key", "accession_number", "study_iuid", "center"):
        value = getattr(filters, column)
        if value is not None:
            found.append((f"{column} = ?", value))
    if filters.modality is not None:
        found += [
            (r"instr('\' || upper(study_modality) || '\', '\' || ? || '\') > 0", one)
            for one in modalities_of(filters.modality) or [""]
        ]
    if filters.from_date is not None:
        found.append(("study_datetime >= ?", f"{filters.from_date} 00:00:00"))
        found.append(("sorted_at >= ?", f"{filters.from_date} 00:00:00"))
    if filters.to_date is not None:
        found.append(("study_datetime <= ?", f"{filters.to_date} 23:59:59"))
        found.append(("sorted_at <= ?", f"{filters.to_date} 23:59:59"))
    if filters.only is not None:
        found.append(("center IN (SELECT value FROM json_each(?))", json.dumps(filters.only)))
    conditions = ["NOT deleted", *(condition for condition, _ in found)]
    return " AND ".join(conditions), [value for _, value in found]


def _among_the_newest(
    connection: sqlite3.Connection, filters: Filters, conditions: str, values: list[Any]
) -> list[int] | None:
    """Ids, the newest first, of more than are counted or shown; None: they aren't found so.

    The index of words gathers all the words that begin so, and their studies, before it gives the first: 40 ms for a
    figure with which 200,000 ids begin, twice.
    """
    beginnings = (filters.patient or "").lower().split()
    if not beginnings or not all(map(_SHORT.fullmatch, beginnings)) or filters.from_date or filters.to_date:
        return None
    before, place = ("", []) if filters.after is None else (" AND (sorted_at, id) < (?, ?)", [*filters.after])
    rows = connection.execute(
        "SELECT id, patient_name, patient_id FROM ("
        " SELECT id, sorted_at, patient_name, patient_id, center, study_modality, deleted"
        f" FROM {_IN_ORDER} WHERE NOT deleted{before} ORDER BY sorted_at DESC, id DESC LIMIT ?"
        f") WHERE {conditions} ORDER BY sorted_at DESC, id DESC",
        [*place, _NEWEST, *values],
    )
    found = [
        number for number, name, patient_id in rows if _begin(beginnings, f"{name or ''} {patient_id or ''}")
    ]
    enough = MOST_COUNTED if filters.after is None else filters.limit
    return found if len(found) > enough else None


def _begin(beginnings: list[str], text: str) -> bool:
    """Whether a word of the text begins with each, as the index of words sees it."""
    plain = text.lower()
    if not plain.isascii():
        plain = "".join(one for one in unicodedata.normalize("NFD", plain) if not unicodedata.combining(one))
    words = re.findall(r"[^\W_]+", plain)
    return all(any(word.startswith(one) for word in words) for one in beginnings)


def _words(filters: Filters) -> str | None:
    """What the index of words is asked for."""
    parts: list[str] = []
    if filters.patient is not None:
        # Each word in quotes is a word to FTS5, whatever it holds, and with * the beginning of one.
        words = " ".join(f"{_quoted(word)}*" for word in filters.patient.split())
        parts.append(f"words : ({words})" if words else '""')
    if filters.modality is not None:
        parts += [f"modalities : {_quoted(one)}" for one in modalities_of(filters.modality)]
    if filters.center is not None:
        parts.append(f"center : {_quoted(filters.center)}")
    return " AND ".join(parts) if parts else None


def _quoted(word: str) -> str:
    return '"{}"'.format(word.replace('"', '""'))


def _is_narrow(connection: sqlite3.Connection, filters: Filters) -> bool:
    """Whether an index of another filter leaves few to look at."""
    if filters.study_iuid or filters.patient_id or filters.patient_key or filters.accession_number:
        return True
    if filters.from_date is None and filters.to_date is None:
        return False
    (number,) = connection.execute(
        f"SELECT count(*) FROM (SELECT 1 FROM {_IN_ORDER} WHERE NOT deleted AND sorted_at BETWEEN ? AND ? LIMIT ?)",
        (f"{filters.from_date or '0000'} 00:00:00", f"{filters.to_date or '9999'} 23:59:59", _NARROW),
    ).fetchone()
    return bool(number < _NARROW)

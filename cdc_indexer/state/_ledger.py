"""The ledger's tables: what is asked of them and written to them, on a connection that the caller has.

``ledger`` has an entry at the place of its study_pk, so that the sweep reads it in that order without an index; ``places``
finds a study_iuid's by its hash. Where an archive gave a study_pk to another study (restored, loaded anew) the place is
taken: those few lie in ``displaced``. ``unverified`` names the entries whose study is still to be read: an entry that says
so and isn't named there was read since, which is told by taking its name away alone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from cdc_indexer.model.ledger import Entry
from cdc_indexer.state._packing import FLAGS_AT, pack, short_hash, unpack

SCHEMA = """
CREATE TABLE ledger (study_pk INTEGER PRIMARY KEY, entry BLOB NOT NULL);
CREATE TABLE places (hash INTEGER, study_pk INTEGER, PRIMARY KEY (hash, study_pk)) WITHOUT ROWID;
CREATE TABLE displaced (study_iuid TEXT PRIMARY KEY, study_pk INTEGER NOT NULL, entry BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX displaced_pk ON displaced (study_pk);
CREATE TABLE unverified (study_pk INTEGER, study_iuid TEXT, PRIMARY KEY (study_pk, study_iuid)) WITHOUT ROWID;
"""

TABLES = ("ledger", "places", "displaced", "unverified")

#: What an INTEGER of SQLite holds; a study_pk beyond it shares the last place.
_MAX_PK = 2**63 - 1

#: Lists of values are filled up to one of these lengths, so that there are few statements to prepare.
_LENGTHS = (1, 8, 64, 512)


class _Found(NamedTuple):
    entry: Entry
    displaced: bool


def put(db: sqlite3.Connection, entries: Sequence[Entry]) -> tuple[int, int]:
    """Writes the new entry of each study; by how many there are more, and more of those that the index holds."""
    hashes = _hashes(entry.study_iuid for entry in entries)
    found = _find(db, hashes)
    changed: list[tuple[bytes, int]] = []
    moved: list[Entry] = []
    added = held = 0
    for entry in entries:
        before = found.get(entry.study_iuid)
        held += (entry.digest is not None) - (before is not None and before.entry.digest is not None)
        if before is None:
            added += 1
            moved.append(entry)
        elif before.entry.study_pk != _place(entry):
            _remove(db, before)
            moved.append(entry)
        elif before.displaced:
            db.execute("UPDATE displaced SET entry = ? WHERE study_iuid = ?", (pack(entry), entry.study_iuid))
        else:
            changed.append((pack(entry), before.entry.study_pk))
    if changed:
        db.executemany("UPDATE ledger SET entry = ? WHERE study_pk = ?", changed)
    if moved:
        _place_all(db, moved, hashes)
    _mark(db, entries, found)
    return added, held


def count_held(db: sqlite3.Connection) -> int:
    """How many entries say that the index holds a document: reads all of them, without their UIDs."""
    return sum(
        int(
            db.execute(
                f"SELECT COUNT(*) FROM {table} WHERE substr(hex(substr(entry, {FLAGS_AT + 1}, 1)), 2) "  # noqa: S608
                "IN ('1', '3', '5', '7', '9', 'B', 'D', 'F')"
            ).fetchone()[0]
        )
        for table in ("ledger", "displaced")
    )


def _place_all(db: sqlite3.Connection, entries: Sequence[Entry], hashes: Mapping[str, int]) -> None:
    """Those that have no place yet."""
    pks = [_place(entry) for entry in entries]
    taken = {pk for (pk,) in _select(db, "SELECT study_pk FROM ledger WHERE study_pk IN ", pks)}
    fresh: list[tuple[int, bytes]] = []
    places: list[tuple[int, int]] = []
    for entry, pk in zip(entries, pks, strict=True):
        if pk in taken:
            db.execute("INSERT INTO displaced VALUES (?, ?, ?)", (entry.study_iuid, pk, pack(entry)))
        else:
            taken.add(pk)
            fresh.append((pk, pack(entry)))
            places.append((hashes[entry.study_iuid], pk))
    if fresh:
        db.executemany("INSERT INTO ledger VALUES (?, ?)", fresh)
        # One that is there already is left of an entry that damage took away.
        db.executemany("INSERT OR REPLACE INTO places VALUES (?, ?)", sorted(places))


def _mark(db: sqlite3.Connection, entries: Sequence[Entry], found: dict[str, _Found]) -> None:
    gone, marked = [], []
    for entry in entries:
        before = found.get(entry.study_iuid)
        if before is not None and before.entry.unverified:
            gone.append((before.entry.study_pk, entry.study_iuid))
        if entry.unverified:
            marked.append((_place(entry), entry.study_iuid))
    if gone:
        db.executemany("DELETE FROM unverified WHERE study_pk = ? AND study_iuid = ?", gone)
    if marked:
        db.executemany("INSERT OR IGNORE INTO unverified VALUES (?, ?)", marked)


def verified(db: sqlite3.Connection, entries: Collection[Entry]) -> None:
    """The studies of these entries were read, and nothing else is new in them."""
    db.executemany(
        "DELETE FROM unverified WHERE study_pk = ? AND study_iuid = ?",
        [(_place(entry), entry.study_iuid) for entry in entries],
    )


def lookup(db: sqlite3.Connection, study_iuids: Sequence[str]) -> dict[str, Entry]:
    """The entries of those studies that have one."""
    return {uid: found.entry for uid, found in _find(db, _hashes(study_iuids)).items()}


def by_pk(db: sqlite3.Connection, after_pk: int, until_pk: int | None, limit: int) -> list[Entry]:
    """The next ``limit`` entries after ``after_pk``; some more where several share the last study_pk."""
    last = _MAX_PK if until_pk is None else until_pk
    sql = "SELECT study_pk, entry FROM {} WHERE study_pk > ? AND study_pk <= ? ORDER BY study_pk LIMIT ?"
    rows = db.execute(sql.format("ledger"), (after_pk, last, limit)).fetchall()
    if len(rows) == limit:
        last = rows[-1][0]
    extra = db.execute(sql.format("displaced"), (after_pk, last, limit)).fetchall()
    if len(extra) == limit:
        last = extra[-1][0]
        extra = [row for row in extra if row[0] < last]
        extra += db.execute(
            "SELECT study_pk, entry FROM displaced WHERE study_pk = ? ORDER BY study_iuid", (last,)
        ).fetchall()
        rows = [row for row in rows if row[0] <= last]
    if extra:
        rows = sorted(rows + extra, key=lambda row: row[0])
    entries = [unpack(pk, entry) for pk, entry in rows]
    marked = _marked(db, entries)
    return [_as_marked(entry, marked) for entry in entries]


def unverified(db: sqlite3.Connection, after_pk: int, limit: int) -> list[Entry]:
    """The next ``limit`` entries whose study is still to be read; some more where several share the last study_pk."""
    rows = db.execute(
        "SELECT study_pk, study_iuid FROM unverified WHERE study_pk > ? ORDER BY study_pk, study_iuid LIMIT ?",
        (after_pk, limit),
    ).fetchall()
    if len(rows) == limit:
        rows += db.execute(
            "SELECT study_pk, study_iuid FROM unverified WHERE study_pk = ? AND study_iuid > ? ORDER BY study_iuid",
            rows[-1],
        ).fetchall()
    entries = lookup(db, [uid for _, uid in rows])
    return [entries[uid] for _, uid in rows if uid in entries]


def clear(db: sqlite3.Connection) -> None:
    """Forgets all entries, in the caller's transaction."""
    for table in TABLES:
        db.execute(f"DELETE FROM {table}")  # noqa: S608 - names of ours


def probe(db: sqlite3.Connection) -> None:
    """Touches both ends of each table: what damage there is at the top of them shows at once."""
    for table in ("ledger", "places"):
        for order in ("", "DESC"):
            key = "study_pk" if table == "ledger" else "hash"
            row = db.execute(f"SELECT * FROM {table} ORDER BY {key} {order} LIMIT 1").fetchone()  # noqa: S608
            if row is not None and table == "ledger":
                unpack(*row)


def _place(entry: Entry) -> int:
    return min(entry.study_pk, _MAX_PK)


def _hashes(study_iuids: Iterable[str]) -> dict[str, int]:
    return {uid: short_hash(uid) for uid in study_iuids}


def _find(db: sqlite3.Connection, hashes: Mapping[str, int]) -> dict[str, _Found]:
    """Of these UIDs, each with its hash, those that have an entry."""
    found: dict[str, _Found] = {}
    sql = "SELECT l.study_pk, l.entry FROM places p JOIN ledger l ON l.study_pk = p.study_pk WHERE p.hash IN "
    for pk, packed in _select(db, sql, list(hashes.values())):
        entry = unpack(pk, packed)
        if entry.study_iuid in hashes:  # another one may have the same hash
            found[entry.study_iuid] = _Found(entry, displaced=False)
    if len(found) < len(hashes) and db.execute("SELECT 1 FROM displaced LIMIT 1").fetchone():
        sql = "SELECT study_iuid, study_pk, entry FROM displaced WHERE study_iuid IN "
        for uid, pk, packed in _select(db, sql, [uid for uid in hashes if uid not in found]):
            found[uid] = _Found(unpack(pk, packed), displaced=True)
    if marked_or_were := [one.entry for one in found.values() if one.entry.unverified]:
        marked = _marked(db, marked_or_were)
        for uid, one in found.items():
            found[uid] = one._replace(entry=_as_marked(one.entry, marked))
    return found


def _marked(db: sqlite3.Connection, entries: Sequence[Entry]) -> set[tuple[int, str]]:
    """Those of them that are named in ``unverified``."""
    pks = sorted({_place(entry) for entry in entries if entry.unverified})
    return set(_select(db, "SELECT study_pk, study_iuid FROM unverified WHERE study_pk IN ", pks))


def _as_marked(entry: Entry, marked: set[tuple[int, str]]) -> Entry:
    if entry.unverified and (_place(entry), entry.study_iuid) not in marked:
        return entry._replace(unverified=False)
    return entry


def _remove(db: sqlite3.Connection, found: _Found) -> None:
    entry = found.entry
    if found.displaced:
        db.execute("DELETE FROM displaced WHERE study_iuid = ?", (entry.study_iuid,))
    else:
        db.execute("DELETE FROM ledger WHERE study_pk = ?", (entry.study_pk,))
        db.execute(
            "DELETE FROM places WHERE hash = ? AND study_pk = ?",
            (short_hash(entry.study_iuid), entry.study_pk),
        )


def _select(db: sqlite3.Connection, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for start in range(0, len(values), _LENGTHS[-1]):
        part = list(values[start : start + _LENGTHS[-1]])
        length = next(length for length in _LENGTHS if length >= len(part))
        marks = ",".join("?" * length)
        # Filled up with the last one: a value twice in IN finds its rows once.
        rows += db.execute(f"{sql} ({marks})", part + part[-1:] * (length - len(part)))
    return rows

"""Who was shown what: sealed records, of which only who has the key can read what is personal."""

from __future__ import annotations

import asyncio
import hmac
import itertools
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from cryptography.fernet import InvalidToken

from central_index.audit_key import AuditKey, UnusableAuditKey, missing
from central_index.whose import Person, patients_of

Statement = tuple[str, Sequence[Any]]
Row = tuple[str, int, str, str, str, str]

TABLES = """
CREATE TABLE audit (
    id TEXT PRIMARY KEY,
    at BIGINT NOT NULL,
    reader TEXT NOT NULL,
    address TEXT NOT NULL,
    kind TEXT NOT NULL,
    content TEXT NOT NULL,
    -- In the order of the seals; NULL until it is sealed. Unique: two processes can't seal the same one.
    place BIGINT UNIQUE,
    seal TEXT
);
CREATE INDEX audit_by_time ON audit (at);
CREATE TABLE audit_patients (patient TEXT NOT NULL, record TEXT NOT NULL, PRIMARY KEY (patient, record));
-- The key that counts, and the last seal of what was forgotten, which the key vouches for.
CREATE TABLE audit_marks (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_PAGE = 500
_FORGOTTEN_AT_ONCE = 50
#: So many records share one commit, at most.
_TOGETHER = 100
_LAST_PLACE = 2**63 - 1
_COLUMNS = "id, at, reader, address, kind, content, place, seal"


class Runs(Protocol):
    """What is needed of a store."""

    async def add_records(self, records: Sequence[Row], patients: Sequence[tuple[str, str]]) -> None:
        """Rows of audit and of audit_patients, durable when this returns."""

    async def run(self, statements: Sequence[Statement]) -> list[list[tuple[Any, ...]]]:
        """All of them in one durable transaction, with ? for values; the rows of each."""


@dataclass(frozen=True, slots=True)
class Record:
    """``at`` in microseconds since 1970. ``content``: what was looked for, and [centre, study_iuid, patient_id] of each."""

    at: int
    reader: str
    address: str
    kind: str
    content: dict[str, Any]


class Checked(NamedTuple):
    """``wrong``: sentences; ``forgotten``: too, who dropped what."""

    records: int
    unsealed: int
    last: str | None
    wrong: list[str]
    forgotten: list[str]


class _Mark(NamedTuple):
    """Up to where all was forgotten, and the seal of that place. ``genuine``: not written by hand."""

    place: int
    seal: str
    genuine: bool = True


class Audit:
    """The records in a store."""

    def __init__(self, store: Runs, key: AuditKey) -> None:
        self._store = store
        self._key = key
        self._waiting: list[tuple[Record, asyncio.Future[None]]] = []
        self._adding: asyncio.Task[None] | None = None

    async def open(self, make: bool = False) -> None:
        """``make``: the key's file, if it isn't there and nothing is recorded yet. Raises UnusableAuditKey."""
        kept, made = await self._kept(), False
        if self._key.check is None:
            if kept is not None:
                raise missing(self._key.path)
            if not make:
                raise UnusableAuditKey(
                    f"{self._key.path} isn't there, and nothing is recorded yet: the index makes it when it starts."
                )
            made = self._key.make()
        if kept is None:
            await self._store.run(
                [
                    (
                        "INSERT INTO audit_marks (name, value) VALUES ('key', ?) ON CONFLICT DO NOTHING",
                        [self._key.check],
                    )
                ]
            )
            kept = await self._kept()
        if kept == self._key.check:
            return
        if made:
            # Another process began at the same time, in another directory.
            self._key.path.unlink(missing_ok=True)
            raise missing(self._key.path)
        raise UnusableAuditKey("The audit's records were made with another key: give --audit-key its file.")

    async def _kept(self) -> str | None:
        (rows,) = await self._store.run([("SELECT value FROM audit_marks WHERE name = 'key'", [])])
        return rows[0][0] if rows else None

    async def add(self, record: Record) -> None:
        """Durable when this returns. Those that come while others are written share one commit."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((record, done))
        if self._adding is None or self._adding.done():
            self._adding = asyncio.create_task(self._add_all())
        await done

    async def _add_all(self) -> None:
        while self._waiting:
            together, self._waiting = self._waiting[:_TOGETHER], self._waiting[_TOGETHER:]
            try:
                await self._write([record for record, _ in together])
            except Exception as error:
                # Whatever it is: who waits is told.
                for _, done in together:
                    if not done.done():
                        done.set_exception(error)
            else:
                for _, done in together:
                    if not done.done():
                        done.set_result(None)

    async def _write(self, records: Sequence[Record]) -> None:
        rows: list[Row] = []
        patients: list[tuple[str, str]] = []
        for one in records:
            number = uuid.uuid4().hex
            rows.append((number, one.at, one.reader, one.address, one.kind, self._key.hide(one.content)))
            patients += [(self._key.patient(patient), number) for patient in patients_of(one.content)]
        # Two ids may be the same person's.
        await self._store.add_records(rows, sorted(set(patients)))

    async def seal(self) -> int:
        """Those that are not yet, each by the one before; how many. If another process does the same, one of both fails."""
        rows, last = await self._store.run(
            [
                (f"SELECT {_COLUMNS} FROM audit WHERE place IS NULL ORDER BY at, id LIMIT ?", [_PAGE]),
                ("SELECT place, seal FROM audit WHERE place = (SELECT max(place) FROM audit)", []),
            ]
        )
        if not rows:
            return 0
        place, previous = last[0] if last else (await self._mark())[:2]
        values: list[Any] = []
        for *row, _, _ in rows:
            place += 1
            previous = self._key.seal(previous, place, row)
            values += [row[0], place, previous]
        sealed = ", ".join(["(?, CAST(? AS BIGINT), ?)"] * len(rows))
        await self._store.run(
            [
                (
                    "UPDATE audit SET place = new.column2, seal = new.column3 "
                    f"FROM (VALUES {sealed}) AS new WHERE audit.id = new.column1",
                    values,
                )
            ]
        )
        return len(rows)

    async def _mark(self) -> _Mark:
        """One that was written by hand doesn't count."""
        (rows,) = await self._store.run([("SELECT value FROM audit_marks WHERE name = 'forgotten'", [])])
        if not rows:
            return _Mark(0, "")
        place, _, rest = rows[0][0].partition(" ")
        seal = rest.partition(" ")[0]
        if place.isdecimal() and hmac.compare_digest(
            self._key.mark(int(place), seal).encode(), rows[0][0].encode()
        ):
            return _Mark(int(place), seal)
        return _Mark(0, "", genuine=False)

    async def of_patient(self, person: Person) -> AsyncIterator[Record]:
        """Who looked at this person's studies, or for them."""
        (rows,) = await self._store.run(
            [
                (
                    f"SELECT {_COLUMNS} FROM audit WHERE id IN (SELECT record FROM audit_patients WHERE patient = ?) "
                    "ORDER BY at, id",
                    [self._key.patient(person.patient_id)],
                )
            ]
        )
        for row in rows:
            record = self._record(row)
            # Not another's, whose id is written with the same letters, nor one that was only put there by hand.
            if person.is_in(record.content):
                yield record

    async def forget(self, before: int, by: str, where: str) -> int:
        """All from before that moment, microseconds since 1970, if it is sealed; the last seal is kept. How many.

        Recorded first: who did it, and who did it before. By pages, so that nobody waits; what ends in between goes on the
        next time.
        """
        if not await self._oldest(before):
            return 0
        await self.add(Record(now(), by, where, "forget", await self._forgetting(before)))
        found = 0
        while rows := await self._oldest(before):
            patients = [
                (patient, row[0])
                for row in rows
                for patient in {self._key.patient(one) for one in patients_of(self._record(row).content)}
            ]
            statements: list[Statement] = [
                ("DELETE FROM audit_patients WHERE patient = ? AND record = ?", pair) for pair in patients
            ]
            place, seal = rows[-1][-2:]
            statements += [
                ("DELETE FROM audit WHERE place <= ?", [place]),
                (
                    "INSERT INTO audit_marks (name, value) VALUES ('forgotten', ?) "
                    "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                    [self._key.mark(place, seal)],
                ),
            ]
            await self._store.run(statements)
            found += len(rows)
        return found

    async def _forgetting(self, before: int) -> dict[str, Any]:
        """What is to be forgotten; what it says itself of who forgot what goes on."""
        old = (
            "FROM audit WHERE place < "
            f"coalesce((SELECT min(place) FROM audit WHERE at >= ? AND place IS NOT NULL), {_LAST_PLACE})"
        )
        counted, rows = await self._store.run(
            [
                (f"SELECT count(*) {old}", [before]),
                (f"SELECT {_COLUMNS} {old} AND kind = 'forget' ORDER BY place", [before]),
            ]
        )
        earlier = [one for row in rows for one in _who_forgot(self._record(row))]
        return {"before": before, "records": counted[0][0], "earlier": earlier}

    async def _oldest(self, before: int) -> list[tuple[Any, ...]]:
        """Those that may be dropped, a page: up to the first that may not, since a late one stands behind a newer one."""
        (rows,) = await self._store.run(
            [
                (
                    f"SELECT {_COLUMNS} FROM audit WHERE place IS NOT NULL ORDER BY place LIMIT ?",
                    [_FORGOTTEN_AT_ONCE],
                )
            ]
        )
        return list(itertools.takewhile(lambda row: row[1] < before, rows))

    async def check(self) -> Checked:
        """Whether each record is as it was sealed, and none is missing."""
        wrong: list[str] = []
        mark = await self._mark()
        if not mark.genuine:
            wrong.append("The mark that says what was forgotten wasn't made with this key: it doesn't count.")
        place, previous, _ = mark
        records = 0
        while True:
            (rows,) = await self._store.run(
                [(f"SELECT {_COLUMNS} FROM audit WHERE place > ? ORDER BY place LIMIT ?", [place, _PAGE])]
            )
            if not rows:
                break
            for *row, at_place, seal in rows:
                if at_place != place + 1:
                    # Another process may have dropped old ones meanwhile.
                    mark = await self._mark()
                    if mark.place > place:
                        place, previous, _ = mark
                        break
                    wrong.append(f"Missing: {at_place - place - 1} after place {place}.")
                elif self._key.seal(previous, at_place, row) != seal:
                    wrong.append(f"Changed: place {at_place}, of {_moment(row[1])}.")
                else:
                    wrong += await self._unnamed(at_place, row)
                place, previous = at_place, seal
                records += 1
        unsealed, forgets = await self._store.run(
            [
                ("SELECT count(*) FROM audit WHERE place IS NULL", []),
                (f"SELECT {_COLUMNS} FROM audit WHERE kind = 'forget' ORDER BY at, id", []),
            ]
        )
        said = [_forgot(one) for row in forgets for one in _who_forgot(self._record(row))]
        last = f"{place} {previous[:16]}" if place else None
        return Checked(records, unsealed[0][0], last, wrong, list(dict.fromkeys(said)))

    async def _unnamed(self, place: int, row: Sequence[Any]) -> list[str]:
        expected = {self._key.patient(one) for one in patients_of(self._record([*row, 0, ""]).content)}
        if not expected:
            return []
        # By the key of that table, which a record alone isn't.
        places = ", ".join("?" * len(expected))
        (found,) = await self._store.run(
            [
                (
                    f"SELECT patient FROM audit_patients WHERE patient IN ({places}) AND record = ?",
                    [*expected, row[0]],
                )
            ]
        )
        return [] if len(found) == len(expected) else [f"Its patients were changed: place {place}."]

    def _record(self, row: Sequence[Any]) -> Record:
        try:
            content = self._key.open(row[5])
        except (InvalidToken, ValueError):
            content = {}
        return Record(row[1], row[2], row[3], row[4], content)


def now() -> int:
    return time.time_ns() // 1000


def months_before(number: int, moment: datetime) -> int:
    """When the month began that lies so many before that of ``moment``, in microseconds since 1970."""
    month = moment.year * 12 + moment.month - 1 - number
    return int(datetime(month // 12, month % 12 + 1, 1).astimezone().timestamp() * 1_000_000)


def _who_forgot(record: Record) -> list[dict[str, Any]]:
    """All that one record says, the earliest first; nothing where it can't be read."""
    if "before" not in record.content:
        return []
    content = dict(record.content)
    earlier: list[dict[str, Any]] = content.pop("earlier")
    return [*earlier, {**content, "at": record.at, "by": record.reader, "where": record.address}]


def _forgot(one: dict[str, Any]) -> str:
    return (
        f"{_moment(one['at'])} {one['by']} ({one['where']}) dropped what was before {_moment(one['before'])}:"
        f" {one['records']} records."
    )


def _moment(at: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at / 1_000_000))

"""Who was shown what: sealed records, of which only who has the key can read what is personal."""

from __future__ import annotations

import asyncio
import base64
import hmac
import itertools
import json
import os
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from cryptography.fernet import Fernet, InvalidToken

from central_index.words import id_key

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
-- The key that counts, and the last seal before what was forgotten.
CREATE TABLE audit_marks (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_PAGE = 500
_FORGOTTEN_AT_ONCE = 50
#: So many records share one commit, at most.
_TOGETHER = 100
_COLUMNS = "id, at, reader, address, kind, content, place, seal"


class UnusableAuditKey(Exception):
    """The key can't be used; the text is one sentence."""


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
    """``wrong``: sentences."""

    records: int
    unsealed: int
    last: str | None
    wrong: list[str]


class AuditKey:
    """Seals, hides what is personal, and finds a patient without opening every record."""

    def __init__(self, path: Path) -> None:
        """Where the file isn't there, `Audit.open` sees to it. Raises UnusableAuditKey."""
        self.path = path.absolute()
        self.check: str | None = None
        try:
            if path.exists():
                self._read()
        except OSError as error:
            raise UnusableAuditKey(f"{path} can't be used: {error.strerror}.") from None

    def make(self) -> bool:
        """False if another process was sooner. Raises UnusableAuditKey."""
        try:
            made = _make(self.path)
            self._read()
            return made
        except OSError as error:
            raise UnusableAuditKey(f"{self.path} can't be made: {error.strerror}.") from None

    def _read(self) -> None:
        text = self.path.read_text().strip()
        if len(text) < 32:
            raise UnusableAuditKey(f"{self.path} must hold a random key of at least 32 characters.")
        self._key = text.encode()
        self._of_patients = self._derived("patient")
        self._of_seals = self._derived("seal")
        self._cipher = Fernet(base64.urlsafe_b64encode(self._derived("content")))
        self.check = self._derived("check").hex()

    def _derived(self, purpose: str) -> bytes:
        return hmac.digest(self._key, purpose.encode(), "sha256")

    def hide(self, content: dict[str, Any]) -> str:
        return self._cipher.encrypt(json.dumps(content).encode()).decode()

    def open(self, content: str) -> dict[str, Any]:
        """Raises InvalidToken."""
        found: dict[str, Any] = json.loads(self._cipher.decrypt(content.encode()))
        return found

    def patient(self, patient_id: str) -> str:
        """What stands for a patient, however the id is written."""
        return hmac.digest(self._of_patients, id_key(patient_id).encode(), "sha256").hex()

    def seal(self, previous: str, place: int, row: Sequence[Any]) -> str:
        text = json.dumps([previous, place, *row])
        return hmac.digest(self._of_seals, text.encode(), "sha256").hex()


def _make(path: Path) -> bool:
    """Complete or not at all; where another process makes it at the same time, the first one counts."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
        os.link(new, path)
        return True
    except FileExistsError:
        return False
    finally:
        new.unlink(missing_ok=True)


def _missing(path: Path) -> UnusableAuditKey:
    return UnusableAuditKey(
        f"This database's record was begun with a key that isn't at {path}: copy the file from where the first process "
        "has it, or name it with --audit-key."
    )


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
                raise _missing(self._key.path)
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
            raise _missing(self._key.path)
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
            patients += [(self._key.patient(patient), number) for patient in _patients(one.content)]
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
        place, previous = last[0] if last else await self._forgotten()
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

    async def _forgotten(self) -> tuple[int, str]:
        (rows,) = await self._store.run([("SELECT value FROM audit_marks WHERE name = 'forgotten'", [])])
        place, _, seal = rows[0][0].partition(" ") if rows else ("0", "", "")
        return int(place), seal

    async def of_patient(self, patient_id: str) -> AsyncIterator[Record]:
        """Who looked at this person's studies, or for them."""
        (rows,) = await self._store.run(
            [
                (
                    f"SELECT {_COLUMNS} FROM audit WHERE id IN (SELECT record FROM audit_patients WHERE patient = ?) "
                    "ORDER BY at",
                    [self._key.patient(patient_id)],
                )
            ]
        )
        wanted = self._key.patient(patient_id)
        for row in rows:
            record = self._record(row)
            # Not one that was only put beside this patient by hand.
            if wanted in map(self._key.patient, _patients(record.content)):
                yield record

    async def forget(self, before: int) -> int:
        """All from before that moment, microseconds since 1970, if it is sealed; the last seal is kept. How many.

        By pages, so that nobody waits; what ends in between goes on the next time.
        """
        found = 0
        while rows := await self._oldest(before):
            patients = [
                (patient, row[0])
                for row in rows
                for patient in {self._key.patient(one) for one in _patients(self._record(row).content)}
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
                    [f"{place} {seal}"],
                ),
            ]
            await self._store.run(statements)
            found += len(rows)
        return found

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
        place, previous = await self._forgotten()
        records = 0
        while True:
            (rows,) = await self._store.run(
                [(f"SELECT {_COLUMNS} FROM audit WHERE place > ? ORDER BY place LIMIT ?", [place, _PAGE])]
            )
            if not rows:
                break
            for *row, at_place, seal in rows:
                if at_place != place + 1:
                    wrong.append(f"Missing: {at_place - place - 1} after place {place}.")
                elif self._key.seal(previous, at_place, row) != seal:
                    wrong.append(f"Changed: place {at_place}, of {_moment(row[1])}.")
                else:
                    wrong += await self._unnamed(at_place, row)
                place, previous = at_place, seal
                records += 1
        (unsealed,) = await self._store.run([("SELECT count(*) FROM audit WHERE place IS NULL", [])])
        return Checked(records, unsealed[0][0], f"{place} {previous[:16]}" if records else None, wrong)

    async def _unnamed(self, place: int, row: Sequence[Any]) -> list[str]:
        expected = {self._key.patient(one) for one in _patients(self._record([*row, 0, ""]).content)}
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


def _patients(content: dict[str, Any]) -> Iterable[str]:
    """Who was looked for by id, and whose studies were shown."""
    asked = content.get("filters", {}).get("patient_id")
    ids = [one[2] for one in content.get("studies", [])]
    return {str(one) for one in (asked, *ids) if one}


def _moment(at: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at / 1_000_000))

"""The files of an index: its keys; the embedded store's, of an older format, of a newer one, while it can't be written."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import time
from contextlib import closing
from pathlib import Path

import pytest

from central_index.digests import FIELDS, range_digest, study_digest
from central_index.document import parse
from central_index.model import Stored
from central_index.sqlite_store import SqliteStore
from tests.central.conftest import WRITER, Index, MakeIndex, study

#: As the first version made it.
FORMAT_1 = """
CREATE TABLE studies (
    id INTEGER PRIMARY KEY,
    patient_pk INTEGER, patient_id TEXT, patient_name TEXT, study_pk INTEGER, study_iuid TEXT, study_datetime TEXT,
    study_description TEXT, study_modality TEXT, study_series INTEGER, study_instances INTEGER, center TEXT,
    more TEXT NOT NULL,
    first_received_at REAL NOT NULL,
    received_at REAL NOT NULL,
    versions INTEGER NOT NULL,
    UNIQUE (center, study_iuid)
);
CREATE INDEX studies_of_patient ON studies (patient_id);
CREATE INDEX studies_of_day ON studies (study_datetime);
CREATE INDEX studies_of_center ON studies (center, id);
-- Words of patient_name and patient_id, without accents.
CREATE VIRTUAL TABLE patient_words USING fts5 (words, tokenize = 'unicode61 remove_diacritics 2');
CREATE TABLE requests (
    id INTEGER PRIMARY KEY,
    key_digest BLOB NOT NULL UNIQUE,
    received_at REAL NOT NULL
);
PRAGMA user_version = 1;
"""


@pytest.fixture(scope="module")
def engine() -> str:
    return "sqlite"


def test_a_file_of_the_first_format_goes_on_being_used(make_index: MakeIndex) -> None:
    index = make_index()
    studies = [
        study(number, study_datetime=None if number == 2 else study()["study_datetime"])
        for number in (1, 2, 3)
    ]
    now = time.time()
    with closing(sqlite3.connect(index.directory / "central.sqlite")) as connection, connection:
        connection.executescript(FORMAT_1)
        for number, one in enumerate(studies, 1):
            values = [one[field] for field in FIELDS]
            connection.execute(
                f"INSERT INTO studies VALUES ({', '.join('?' * 16)})",
                [number, *values, '{"a": 1.0}', now, now, 2],
            )
            connection.execute(
                "INSERT INTO patient_words (rowid, words) VALUES (?, ?)", (number, "PEÑA^JOSÉ 26267267-K")
            )
    index.start()
    held = index.studies(patient="pena")
    assert [one["study_pk"] for one in held] == [2, 3, 1]
    assert {name: held[1][name] for name in FIELDS} == studies[2]
    answer = index.ask("POST", "/api/v1/register/digests", WRITER, json={"ranges": [[None, None]]})
    expected = range_digest(study_digest({**one, "a": 1}) for one in studies)
    assert answer.json()["ranges"] == [{"count": 3, "digest": expected}]
    # What came without a version counts as of its arrival.
    old = {"Study-Version": str(int((now - 1) * 1_000_000))}
    assert index.ask("POST", "/api/v1/register", WRITER, json=study(), headers=old).status_code == 409
    assert index.post(study(study_instances=1)).status_code == 201
    index.stop()
    index.start()
    assert len(index.studies()) == 3


def test_a_file_of_a_later_format_is_left_alone(make_index: MakeIndex) -> None:
    index = make_index()
    path = index.directory / "central.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE of_tomorrow (x)")
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(AssertionError, match=r"central\.sqlite is of format 99, this program knows 2\."):
        index.start()
    assert "Traceback" not in index.log


def test_a_migration_that_fails_leaves_the_file_as_it_was(make_index: MakeIndex) -> None:
    index = make_index()
    path = index.directory / "central.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(FORMAT_1)
        # In the way of what the migration makes, near its end.
        connection.execute("CREATE TABLE reports (x)")
    with pytest.raises(AssertionError, match="can't be used: table reports already exists"):
        index.start()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        columns = [row[1] for row in connection.execute("PRAGMA table_info(studies)")]
        assert "digest" not in columns
        connection.execute("DROP TABLE reports")
    index.start()
    assert index.post(study()).status_code == 201


def test_a_file_that_cant_be_written_is_503_and_passes(index: Index) -> None:
    index.post(study())
    with closing(sqlite3.connect(index.directory / "central.sqlite", isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        answer = index.post(study(2))
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        connection.execute("ROLLBACK")
    assert index.post(study(2)).status_code == 201
    assert "Traceback" not in index.log


def test_its_files_are_for_its_own_account(index: Index) -> None:
    index.post(study())
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in index.directory.glob("central.sqlite*")}
    assert set(modes) == {"central.sqlite", "central.sqlite-wal", "central.sqlite-shm"}
    assert set(modes.values()) == {0o600}


def test_it_doesnt_start_on_what_isnt_its_file(make_index: MakeIndex) -> None:
    index = make_index()
    (index.directory / "central.sqlite").write_text("something else that must not be lost")
    with pytest.raises(AssertionError, match=r"central\.sqlite can't be used: file is not a database"):
        index.start()
    assert "Traceback" not in index.log


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "isn't there: write it, such as"),
        ("{", "must look like"),
        ('{"centers": {"000": 17}, "readers": {}}', "must look like"),
        ('{"centers": {"000": "short"}, "readers": {}}', "the key of '000' is shorter than 12."),
        ('{"centers": {"0": "the-same-key"}, "readers": {"r": "the-same-key"}}', "is another's, too."),
    ],
)
def test_it_doesnt_start_with_unusable_keys(make_index: MakeIndex, content: str | None, said: str) -> None:
    index = make_index()
    keys = index.directory / "keys.json"
    keys.unlink() if content is None else keys.write_text(content)
    with pytest.raises(AssertionError, match="Error: "):
        index.start()
    assert said in index.log
    assert "Traceback" not in index.log
    assert "the-same-key" not in index.log


def test_a_login_and_a_record_are_no_news_to_open_pages(tmp_path: Path) -> None:
    """Else each page would read anew for what another one asked."""
    told: list[None] = []

    async def run() -> None:
        store = SqliteStore(tmp_path / "central.sqlite", lambda: told.append(None))
        await store.open()
        try:
            await store.open_session(b"name", b"key", time.time() + 60)
            await store.add_records([("1", 1, "reader", "", "search", "")], [])
            assert told == []
            await store.write([Stored(None, time.time(), parse(study()), 1)])
        finally:
            await store.close()

    asyncio.run(run())
    assert told == [None]

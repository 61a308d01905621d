"""The SQLite file: its tables, and how one of an older format becomes one of today's."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from central_index import audit
from central_index.digests import FIELDS, further, study_digest
from central_index.model import UnusableStore

FORMAT = 2
_CACHE_KB = 16_384
#: Of 4 KB.
_LOG_PAGES = 4_000

_FIELD_TYPES = {
    field: "INTEGER" if field.endswith(("_pk", "_series", "_instances")) else "TEXT" for field in FIELDS
}
_FORMAT_1 = f"""
CREATE TABLE studies (
    id INTEGER PRIMARY KEY,
    {", ".join(f"{field} {kind}" for field, kind in _FIELD_TYPES.items())},
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
"""
#: What of a row is hashed; a digest must not outlive a change of one of these.
HASHED = (*FIELDS, "more")
_CHANGED = " OR ".join(f"NEW.{column} IS NOT OLD.{column}" for column in HASHED)
_WORDS = "coalesce({0}.patient_name, '') || ' ' || coalesce({0}.patient_id, '')"
_MODALITIES = "replace(coalesce({0}.study_modality, ''), '\\', ' ')"


def _index_words(row: str) -> str:
    return (
        "INSERT INTO study_words (rowid, words, modalities, center) "
        f"SELECT {row}.id, {_WORDS.format(row)}, {_MODALITIES.format(row)}, {row}.center WHERE NOT {row}.deleted;"
    )


_FORMAT_2 = f"""
ALTER TABLE studies ADD COLUMN version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE studies ADD COLUMN key_digest BLOB;
-- NULL: not known, since the row was changed by hand. It is made from the row when it is asked for.
ALTER TABLE studies ADD COLUMN digest BLOB;
-- 1: a tombstone, which keeps the version at which the study was deleted, and nothing else of it.
ALTER TABLE studies ADD COLUMN deleted INTEGER NOT NULL DEFAULT 0;
ALTER TABLE studies ADD COLUMN sorted_at TEXT GENERATED ALWAYS AS (
    coalesce(study_datetime, strftime('%Y-%m-%d %H:%M:%S', first_received_at, 'unixepoch'))
) VIRTUAL;
-- As words.id_key makes it.
ALTER TABLE studies ADD COLUMN patient_key TEXT GENERATED ALWAYS AS (
    ltrim(upper(replace(replace(replace(replace(patient_id, ' ', ''), '.', ''), '-', ''), '/', '')), '0')
) VIRTUAL;
ALTER TABLE studies ADD COLUMN accession_number TEXT GENERATED ALWAYS AS (json_extract(more, '$.accession_number')) VIRTUAL;
CREATE INDEX studies_by_patient_key ON studies (patient_key) WHERE patient_key IS NOT NULL;
CREATE INDEX studies_by_accession ON studies (accession_number) WHERE accession_number IS NOT NULL;
UPDATE studies SET version = CAST(received_at * 1000000 AS INTEGER), digest = study_digest({", ".join(HASHED)});

DROP INDEX studies_of_day;
DROP INDEX studies_of_center;
CREATE INDEX studies_in_order ON studies (sorted_at, id) WHERE NOT deleted;
CREATE INDEX studies_by_iuid ON studies (study_iuid);
CREATE INDEX studies_by_pk ON studies (center, study_pk, digest) WHERE NOT deleted;
CREATE INDEX studies_by_version ON studies (center, version);
CREATE INDEX studies_by_arrival ON studies (first_received_at);
CREATE INDEX tombstones ON studies (received_at) WHERE deleted;

DROP TABLE patient_words;
CREATE VIRTUAL TABLE study_words USING fts5 (
    words, modalities, center, tokenize = 'unicode61 remove_diacritics 2'
);
INSERT INTO study_words (rowid, words, modalities, center)
    SELECT id, {_WORDS.format("studies")}, {_MODALITIES.format("studies")}, center FROM studies;
-- Triggers, so that a row that is changed by hand is found as what it became, and has no digest of what it was.
CREATE TRIGGER study_inserted AFTER INSERT ON studies BEGIN {_index_words("NEW")} END;
CREATE TRIGGER study_updated AFTER UPDATE OF {", ".join((*FIELDS, "deleted"))} ON studies
WHEN {" OR ".join(f"NEW.{c} IS NOT OLD.{c}" for c in ("patient_name", "patient_id", "study_modality", "center", "deleted"))}
BEGIN
    DELETE FROM study_words WHERE rowid = OLD.id;
    {_index_words("NEW")}
END;
CREATE TRIGGER study_edited AFTER UPDATE OF {", ".join(HASHED)} ON studies
WHEN NEW.digest IS OLD.digest AND NEW.digest IS NOT NULL AND ({_CHANGED})
BEGIN
    UPDATE studies SET digest = NULL WHERE id = NEW.id;
END;
CREATE TRIGGER study_removed AFTER DELETE ON studies BEGIN DELETE FROM study_words WHERE rowid = OLD.id; END;

CREATE TABLE reports (
    center TEXT PRIMARY KEY,
    at INTEGER NOT NULL,
    received_at REAL NOT NULL,
    content TEXT NOT NULL
);
CREATE TABLE sessions (name_digest BLOB PRIMARY KEY, key_digest BLOB NOT NULL, until REAL NOT NULL);
CREATE TABLE refused_logins (address TEXT NOT NULL, refused_at REAL NOT NULL);
CREATE INDEX refused_logins_by_address ON refused_logins (address, refused_at);
{audit.TABLES}
"""
#: Each brings a file of the format before to its own. A new file takes all of them.
MIGRATIONS = {1: _FORMAT_1, 2: _FORMAT_2}


def open_file(path: Path) -> sqlite3.Connection:
    """The writer's connection, to a file of today's format. Raises UnusableStore."""
    try:
        # Names of patients: for this account only. SQLite's other files take their mode from this one.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            _prepare(path, connection)
            # Not before: a migration needs much. What a statement needs to undo itself would be a file, written as often as
            # the log is; the pages that all studies change are read and copied again and again otherwise.
            connection.execute("PRAGMA temp_store = MEMORY")
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        except BaseException:
            connection.close()
            raise
    except OSError as error:
        raise UnusableStore(f"{path} can't be opened: {error.strerror}.") from None
    except sqlite3.Error as error:
        raise UnusableStore(f"{path} can't be used: {error}.") from None
    return connection


def _prepare(path: Path, connection: sqlite3.Connection) -> None:
    # A 201 tells a centre to forget the study: it must be on the disk by then.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.create_function("study_digest", len(HASHED), digest_of_row, deterministic=True)
    with transaction(connection):
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found > FORMAT:
            raise UnusableStore(f"{path} is of format {found}, this program knows {FORMAT}.")
        for number in range(found + 1, FORMAT + 1):
            for statement in _statements(MIGRATIONS[number]):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")


def _statements(script: str) -> Iterator[str]:
    """One by one: executescript would end the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def digest_of_row(*values: Any) -> bytes:
    """Of a row's columns HASHED."""
    *known, more = values
    return study_digest({**further(more), **dict(zip(FIELDS, known, strict=True))})


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A full disk has rolled it back already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def snapshot(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that only reads, and sees one state throughout."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("BEGIN")
        yield connection
    finally:
        connection.close()

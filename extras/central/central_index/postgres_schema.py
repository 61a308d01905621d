"""The tables in PostgreSQL, and how a database of an older format becomes one of today's while it is in use."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

from central_index import audit
from central_index.digests import FIELDS
from central_index.model import UnusableStore

FORMAT = 1
#: Enough for a table of 100 million, few enough that a search that touches all of them stays quick.
PARTITIONS = 16
_LOCK = 0x63656E7472616C

_FIELD_TYPES = {
    field: "bigint" if field.endswith(("_pk", "_series", "_instances")) else 'text COLLATE "C"'
    for field in FIELDS
}
#: What of a row is hashed.
HASHED = (*FIELDS, "more")
_CHANGED = " OR ".join(f"NEW.{column} IS DISTINCT FROM OLD.{column}" for column in HASHED)

_FORMAT_1 = f"""
CREATE SEQUENCE study_ids;
CREATE TABLE studies (
    id bigint NOT NULL DEFAULT nextval('study_ids'),
    {", ".join(f"{field} {kind}" for field, kind in _FIELD_TYPES.items())},
    -- Further fields, as text: jsonb would write some numbers anew.
    more text NOT NULL DEFAULT '{{}}',
    -- Seconds since 1970.
    first_received_at double precision NOT NULL,
    received_at double precision NOT NULL,
    versions integer NOT NULL DEFAULT 1,
    version bigint NOT NULL DEFAULT 0,
    key_digest bytea,
    -- The digest's two halves. NULL, as in sorted_at and words: not known, since the row was changed by hand.
    digest_high bigint,
    digest_low bigint,
    -- A tombstone, which keeps the version at which the study was deleted, and nothing else of it.
    deleted boolean NOT NULL DEFAULT false,
    sorted_at text COLLATE "C",
    words tsvector,
    -- In this order the key also finds a study by its UID alone. Every unique key holds the centre: see docs/region.md.
    PRIMARY KEY (study_iuid, center)
) PARTITION BY HASH (center);
CREATE TABLE requests (
    center text COLLATE "C" NOT NULL,
    key_digest bytea NOT NULL,
    received_at double precision NOT NULL,
    PRIMARY KEY (center, key_digest)
) PARTITION BY HASH (center);
CREATE INDEX studies_in_order ON studies (sorted_at, id) WHERE NOT deleted;
CREATE INDEX studies_of_center ON studies (center, sorted_at, id) WHERE NOT deleted;
CREATE INDEX studies_by_pk ON studies (center, study_pk) INCLUDE (digest_high, digest_low) WHERE NOT deleted;
CREATE INDEX studies_by_version ON studies (center, version);
-- Without the list of what is pending, which each search would have to go through.
CREATE INDEX studies_by_words ON studies USING gin (words) WITH (fastupdate = off);
CREATE INDEX studies_to_refresh ON studies (center) WHERE digest_low IS NULL AND NOT deleted;
-- Rows lie in the order of their arrival.
CREATE INDEX studies_by_arrival ON studies USING brin (first_received_at) WITH (autosummarize = on);
CREATE INDEX tombstones ON studies (received_at) WHERE deleted;
CREATE INDEX requests_by_time ON requests (received_at);

-- A row that is changed by hand has no digest of what it was; it gets a new one before the next search or comparison.
CREATE FUNCTION study_edited() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.digest_high := NULL;
    NEW.digest_low := NULL;
    INSERT INTO edits DEFAULT VALUES;
    RETURN NEW;
END $$;
-- That there is such a row: asked before each search, which the partitions would take longer to answer.
CREATE TABLE edits (edited_at timestamptz NOT NULL DEFAULT now());
CREATE TRIGGER study_inserted BEFORE INSERT ON studies FOR EACH ROW
WHEN (NEW.digest_low IS NULL AND NOT NEW.deleted) EXECUTE FUNCTION study_edited();
CREATE TRIGGER study_edited BEFORE UPDATE ON studies FOR EACH ROW
WHEN (NEW.digest_low IS NOT DISTINCT FROM OLD.digest_low AND NEW.digest_high IS NOT DISTINCT FROM OLD.digest_high
      AND ({_CHANGED}))
EXECUTE FUNCTION study_edited();

CREATE TABLE reports (
    center text COLLATE "C" PRIMARY KEY,
    at bigint NOT NULL,
    received_at double precision NOT NULL,
    content text NOT NULL
);
CREATE TABLE sessions (
    name_digest bytea PRIMARY KEY,
    key_digest bytea NOT NULL,
    until double precision NOT NULL
);
CREATE TABLE refused_logins (
    address text COLLATE "C" NOT NULL,
    refused_at double precision NOT NULL
);
CREATE INDEX refused_logins_by_address ON refused_logins (address, refused_at);
{audit.TABLES}
"""
_MIGRATIONS = {1: _FORMAT_1}


async def prepare(connection: psycopg.AsyncConnection[Any]) -> None:
    """Brings the database to today's format; many processes may ask at once. Raises UnusableStore."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        await connection.execute("CREATE TABLE IF NOT EXISTS index_format (format integer NOT NULL)")
        row = await (await connection.execute("SELECT max(format) FROM index_format")).fetchone()
        found = (row[0] if row is not None else None) or 0
        if found > FORMAT:
            raise UnusableStore(f"The database is of format {found}, this program knows {FORMAT}.")
        for number in range(found + 1, FORMAT + 1):
            await connection.execute(_MIGRATIONS[number].encode())
            if number == 1:
                await _make_partitions(connection)
            await connection.execute("INSERT INTO index_format (format) VALUES (%s)", [number])


async def _make_partitions(connection: psycopg.AsyncConnection[Any]) -> None:
    for table in ("studies", "requests"):
        for number in range(PARTITIONS):
            await connection.execute(
                sql.SQL("CREATE TABLE {} PARTITION OF {} FOR VALUES WITH (MODULUS {}, REMAINDER {})").format(
                    sql.Identifier(f"{table}_{number:02}"), sql.Identifier(table), PARTITIONS, number
                )
            )

"""The tables in PostgreSQL, and how a database of an older format becomes one of today's while it is in use."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import psycopg
import structlog
from psycopg import errors, sql

from central_index import audit
from central_index.digests import FIELDS
from central_index.model import UnusableStore
from central_index.words import BEGINNING, HEAD, MOST_PAIRED, TOO_MANY

#: Enough for a table of 100 million, few enough that a search that touches all of them stays quick.
PARTITIONS = 16
_LOCK = 0x63656E7472616C
_LOOK_AGAIN_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 30.0

_FIELD_TYPES = {
    field: "bigint" if field.endswith(("_pk", "_series", "_instances")) else 'text COLLATE "C"'
    for field in FIELDS
}
#: What of a row is hashed.
HASHED = (*FIELDS, "more")
_CHANGED = " OR ".join(f"NEW.{column} IS DISTINCT FROM OLD.{column}" for column in HASHED)

#: Of both indexes of words: what is new comes into them many rows at a time, which saves a sixth of a study's CPU. Each
#: search goes through what waits for that, at most so many KB in each partition.
_SOME_AT_ONCE = "fastupdate = on, gin_pending_list_limit = 64"

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
CREATE INDEX studies_by_words ON studies USING gin (words) WITH ({_SOME_AT_ONCE});
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


class _Newer(NamedTuple):
    """What a format has that the one before hasn't: ``indexes``, what they need ``first``, and the one that it ``drops``."""

    indexes: dict[str, str]
    first: Sequence[str] = ()
    drops: str = ""

    def whole(self) -> list[str]:
        """Once each partition has its own, if there are any yet: they are taken for parts of these."""
        made = [
            f"CREATE INDEX IF NOT EXISTS {name} ON studies {definition}"
            for name, definition in self.indexes.items()
        ]
        return made + [f"DROP INDEX IF EXISTS {self.drops}"] * bool(self.drops)


#: So that days can be counted, and searched for a modality, without a look at each row. The second names those that a search
#: by date doesn't mean, though they stand at the date of their arrival.
_FORMAT_2 = _Newer(
    {
        "studies_by_date": "(sorted_at, id) INCLUDE (center, study_modality) WHERE NOT deleted",
        "studies_undated": "(sorted_at) INCLUDE (id) WHERE study_datetime IS NULL AND NOT deleted",
    },
    drops="studies_in_order",
)
#: Each two names of a study, see words.pairs_asked. Of two names that many have, all that begins with one or the other would
#: be gathered from the words.
_FORMAT_3 = _Newer(
    {"studies_by_pairs": f"USING gin (study_pairs(words)) WITH ({_SOME_AT_ONCE}) WHERE NOT deleted"},
    first=[
        # A database of an older format has it without. One by one: each is locked for a moment.
        *(
            f"ALTER INDEX IF EXISTS studies_{number:02}_words_idx SET ({_SOME_AT_ONCE})"
            for number in range(PARTITIONS)
        ),
        f"""
CREATE OR REPLACE FUNCTION study_pairs(words tsvector) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    word text;
    start text COLLATE "C";
    last text COLLATE "C" := '';
    head text;
    fourth text;
    fifth text;
    -- Of each word that was before: its head | the fourth letter / the fifth, and a space.
    before text := '';
    pairs text := '';
    number integer := 0;
BEGIN
    -- They are sorted by their bytes.
    FOREACH word IN ARRAY tsvector_to_array(words) LOOP
        start := substr(word, 1, {BEGINNING});
        IF start >= 'a' AND start <> last AND length(start) >= {HEAD} THEN
            head := substr(start, 1, {HEAD});
            fourth := rpad(substr(start, {HEAD + 1}, 1), 1, '.');
            fifth := rpad(substr(start, {BEGINNING}, 1), 1, '.') || ' ';
            pairs := pairs || replace(replace(replace(before, '|', head), '/', fourth), ' ', fifth);
            before := before || head || '|' || fourth || '/' || fifth;
            last := start;
            number := number + 1;
        END IF;
    END LOOP;
    RETURN CASE WHEN number > {MOST_PAIRED} THEN '{TOO_MANY}' ELSE pairs END::tsvector;
END $$""",
        # Whoever writes a row calls it.
        "GRANT EXECUTE ON FUNCTION study_pairs TO PUBLIC",
    ],
)
_NEWER = {2: _FORMAT_2, 3: _FORMAT_3}
FORMAT = max(_NEWER)
#: What a role or a database may be given for its searches; an index of a large table takes longer.
_LIMITS = "pg_settings WHERE name IN ('statement_timeout', 'lock_timeout', 'transaction_timeout')"

_NOT_OURS = (
    "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = to_regclass('studies')"
    " AND NOT pg_has_role(relowner, 'USAGE')"
)

log = structlog.get_logger()


async def prepare(connection: psycopg.AsyncConnection[Any]) -> bool:
    """Makes the tables where there are none; many processes may ask at once. Raises UnusableStore.

    ``connection`` is in autocommit. Whether they are of an older format: they can be used as they are, and `upgrade` is to
    be called.
    """
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise UnusableStore(
            f"The database's encoding is {encoding}, and names need UTF8: create it with ENCODING 'UTF8'."
        )
    if not await _format(connection):
        async with _alone(connection):
            if not await _format(connection):
                await _create(connection)
    found = await _format(connection)
    if found > FORMAT:
        raise UnusableStore(f"The database is of format {found}, this program knows {FORMAT}.")
    return found < FORMAT


async def upgrade(connection: psycopg.AsyncConnection[Any]) -> None:
    """Brings tables of an older format to today's, while all processes go on. What was interrupted is taken up.

    ``connection`` is in autocommit. Raises UnusableStore where the role mayn't.
    """
    async with _alone(connection):
        found = await _format(connection)
        if found < FORMAT and (owner := await _value(connection, _NOT_OURS)) is not None:
            raise UnusableStore(f"The tables are the role {owner}'s: let one process log in as it, once.")
        for number, newer in _NEWER.items():
            if number > found:
                log.info("The tables get indexes of a newer version, while they are used.", format=number)
                await _add_indexes(connection, newer)
                await _keep_format(connection, number)
    if found < FORMAT:
        log.info("The tables are of today's format.", format=FORMAT)


@asynccontextmanager
async def _alone(connection: psycopg.AsyncConnection[Any]) -> AsyncIterator[None]:
    """No other process does the same. Without a transaction that waits, for an index that is built waits for all of them."""
    while not await _value(connection, "SELECT pg_try_advisory_lock(%s)", _LOCK):
        await asyncio.sleep(_LOOK_AGAIN_SECONDS)
    try:
        await connection.execute(f"SELECT set_config(name, '0', false) FROM {_LIMITS}".encode())
        yield
    finally:
        try:
            await connection.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])
            await connection.execute(f"SELECT set_config(name, reset_val, false) FROM {_LIMITS}".encode())
        except BaseException:
            # It must not be taken for anything else with these.
            await connection.close()
            raise


async def _format(connection: psycopg.AsyncConnection[Any]) -> int:
    """0: there are no tables."""
    if await _value(connection, "SELECT to_regclass('index_format')") is None:
        return 0
    return await _value(connection, "SELECT max(format) FROM index_format") or 0


async def _value(connection: psycopg.AsyncConnection[Any], statement: str, *values: object) -> Any:
    row = await (await connection.execute(statement.encode(), values)).fetchone()
    return row[0] if row is not None else None


async def _create(connection: psycopg.AsyncConnection[Any]) -> None:
    """All of today's format at once."""
    async with connection.transaction():
        await connection.execute("CREATE TABLE IF NOT EXISTS index_format (format integer NOT NULL)")
        await connection.execute(_FORMAT_1.encode())
        await _make_partitions(connection)
        for newer in _NEWER.values():
            for statement in (*newer.first, *newer.whole()):
                await connection.execute(statement.encode())
        await _keep_format(connection, FORMAT)


async def _add_indexes(connection: psycopg.AsyncConnection[Any], newer: _Newer) -> None:
    for statement in newer.first:
        await _soon(connection, statement)
    for name, definition in newer.indexes.items():
        for number in range(PARTITIONS):
            part = f"{name}_{number:02}"
            valid = await _value(
                connection, "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", part
            )
            if valid is False:
                await connection.execute(f"DROP INDEX CONCURRENTLY {part}".encode())
            if not valid:
                try:
                    await connection.execute(
                        f"CREATE INDEX CONCURRENTLY {part} ON studies_{number:02} {definition}".encode()
                    )
                except psycopg.Error:
                    # Where the disk is full, others need it.
                    with contextlib.suppress(psycopg.Error):
                        await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {part}".encode())
                    raise
    for statement in newer.whole():
        await _soon(connection, statement)


async def _soon(connection: psycopg.AsyncConnection[Any], statement: str) -> None:
    """What needs the whole table for a moment: whoever comes behind it doesn't wait for a long search before it.

    More and more rarely, for a backup may hold the table for hours.
    """
    pause = 1.0
    while True:
        try:
            async with connection.transaction():
                await connection.execute(b"SET LOCAL lock_timeout = '1s'")
                await connection.execute(statement.encode())
                return
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


async def _keep_format(connection: psycopg.AsyncConnection[Any], number: int) -> None:
    await connection.execute("INSERT INTO index_format (format) VALUES (%s)", [number])


async def _make_partitions(connection: psycopg.AsyncConnection[Any]) -> None:
    for table in ("studies", "requests"):
        for number in range(PARTITIONS):
            await connection.execute(
                sql.SQL("CREATE TABLE {} PARTITION OF {} FOR VALUES WITH (MODULUS {}, REMAINDER {})").format(
                    sql.Identifier(f"{table}_{number:02}"), sql.Identifier(table), PARTITIONS, number
                )
            )

"""Many changes into PostgreSQL at once: what becomes of each, and one statement that writes them."""

from __future__ import annotations

from collections.abc import Sequence

from central_index.model import Change, Outcome, Verdict, key_digest
from central_index.postgres_pool import Connection
from central_index.postgres_rows import HELD, UPSERT, Write, found_from, written_rows
from central_index.versions import Key, after, judge, places_of, unseen


async def apply_all(changes: Sequence[Change], connection: Connection) -> list[Outcome]:
    """What became of each; sorted by key, so that two transactions never wait for each other."""
    known = await _known_keys(connection, changes)
    outcomes: list[Outcome | None] = [None] * len(changes)
    places = places_of(changes)
    if ordered_by_version(changes):
        await _write_unseen(connection, changes, places, outcomes)
    # Again for those of which another process has just written a version: the judgement was about an older one.
    while places:
        rows = await connection.execute(HELD, [[key[0] for key in places], [key[1] for key in places]])
        writes: list[Write] = []
        for key, found in map(found_from, await rows.fetchall()):
            now, last, versions = found.held, None, 0
            for place in places[key]:
                change = changes[place]
                outcome = outcomes[place] = judge(now, change, found.clock, known[place])
                if outcome.verdict in (Verdict.APPLIED, Verdict.ABSENT):
                    now, last = after(change, outcome), change
                    versions = 0 if now.deleted else versions + 1
            if last is not None and now is not None:
                writes.append(Write(last, now, versions))
        if not writes:
            break
        kept = await _upsert(connection, writes)
        keys = ((write.change.center, write.change.study_iuid) for write in writes)
        places = {key: places[key] for key in keys if key not in kept}
    return [outcome for outcome in outcomes if outcome is not None]


def ordered_by_version(changes: Sequence[Change]) -> bool:
    """Then the statement that writes refuses an older version by itself, and no transaction need stand around it."""
    return all(change.version is not None or change.idempotency_key is None for change in changes)


async def _write_unseen(
    connection: Connection,
    changes: Sequence[Change],
    places: dict[Key, list[int]],
    outcomes: list[Outcome | None],
) -> None:
    """Those that turn out to need a look at what is there are left in ``places``."""
    writes: list[Write] = []
    for place, change, outcome in unseen(changes, places):
        outcomes[place] = outcome
        writes.append(Write(change, after(change, outcome)))
    if writes:
        for key in await _upsert(connection, writes):
            del places[key]


async def _upsert(connection: Connection, writes: Sequence[Write]) -> set[Key]:
    """Those that were written: another process may have written a newer version."""
    rows = await connection.execute(UPSERT, written_rows(writes))
    return set(await rows.fetchall())


async def _known_keys(connection: Connection, changes: Sequence[Change]) -> list[bool]:
    """For each whether its key came before; remembers them. With a version the study's own row remembers what counts."""
    keys = {
        place: (change.center, digest)
        for place, change in enumerate(changes)
        if change.version is None and (digest := key_digest(change)) is not None
    }
    known = [False] * len(changes)
    if not keys:
        return known
    wanted = sorted(set(keys.values()))
    rows = await connection.execute(
        "INSERT INTO requests (center, key_digest, received_at) "
        "SELECT center, key_digest, extract(epoch FROM now()) "
        "FROM unnest(%s::text[], %s::bytea[]) AS new (center, key_digest) ORDER BY 1, 2 "
        "ON CONFLICT (center, key_digest) DO NOTHING RETURNING center, key_digest",
        [[center for center, _ in wanted], [digest for _, digest in wanted]],
    )
    new = {(center, bytes(digest)) for center, digest in await rows.fetchall()}
    rows = await connection.execute(
        "SELECT key_digest FROM requests WHERE center = '' AND key_digest = ANY(%s)",
        [[digest for _, digest in wanted]],
    )
    moved = {bytes(digest) for (digest,) in await rows.fetchall()}
    for place, key in keys.items():
        known[place] = key not in new or key[1] in moved
        # The next one with this key in the same group.
        new.discard(key)
    return known

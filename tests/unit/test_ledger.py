"""The ledger: whatever is written of a study is what is found, by its UID and in the order of the pks."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdc_indexer.flow.decide import DELETION, DOUBT, INVALID
from cdc_indexer.model.changes import Changes
from cdc_indexer.model.ledger import Entry
from cdc_indexer.state import _ledger
from cdc_indexer.state._packing import Unreadable, pack, unpack
from cdc_indexer.state.store import Store

uids = st.one_of(
    st.from_regex(r"[0-9.]{1,64}", fullmatch=True),
    st.text(min_size=1, max_size=40),
    st.sampled_from(["1.2f", "a.b", "0", ".", "1 2", "١.٢", "deadbeef", "\ud800"]),
)
digests = st.none() | st.binary(min_size=16, max_size=16)
counts = st.none() | st.integers(0, 2**40)
entries = st.builds(
    Entry,
    uids,
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**63 - 1),
    digests,
    st.booleans(),
    digests,
    st.booleans(),
    counts,
    counts,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    one = Store(tmp_path / "state")
    yield one
    one.close()


def put(store: Store, *some: Entry) -> None:
    store.apply(Changes(ledger={entry.study_iuid: entry for entry in some}))


def entry(uid: str, pk: int, version: int = 1, *, unverified: bool = False) -> Entry:
    return Entry(uid, pk, version, bytes(16), unverified=unverified)


@given(entries)
def test_an_entry_comes_back_from_its_bytes(one: Entry) -> None:
    assert unpack(one.study_pk, pack(one)) == one


@given(entries, st.data())
def test_a_flipped_bit_is_noticed(one: Entry, data: st.DataObject) -> None:
    packed = bytearray(pack(one))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Unreadable):
        unpack(one.study_pk, bytes(packed))


@pytest.mark.parametrize("packed", [b"", b"\0", pack(entry("1.2.3", 1))[:-1], pack(entry("1.2.3", 1))[:8]])
def test_a_torn_entry_is_noticed(packed: bytes) -> None:
    with pytest.raises(Unreadable):
        unpack(1, packed)


def test_a_digest_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        pack(Entry("1.2", 1, 1, b"short"))


# A few studies and fewer pks, so that places are taken, given back and taken again.
few = st.integers(0, 9).map(lambda number: f"1.2.{number}")
puts = st.lists(
    st.builds(entry, few, st.integers(0, 5), st.integers(1, 1000), unverified=st.booleans()),
    min_size=1,
    max_size=5,
)
#: New entries, and studies that are read in the same step, if they are still to be.
steps = st.lists(st.tuples(puts, st.sets(few, max_size=4)), max_size=12)


@given(steps)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_it_is_a_dictionary_of_studies_in_the_order_of_their_pks(
    store: Store, actions: list[tuple[list[Entry], set[str]]]
) -> None:
    store.apply(Changes(new_ledger=True))
    assert store.count == 0
    model: dict[str, Entry] = {}
    for some, read in actions:
        changes = Changes(ledger={one.study_iuid: one for one in some})
        model |= changes.ledger
        changes.verified = {
            uid: one._replace(unverified=False)
            for uid, one in model.items()
            if uid in read and one.unverified
        }
        model |= changes.verified
        store.apply(changes)
        assert store.count == len(model)
        assert store.lookup([f"1.2.{number}" for number in range(12)]) == model
        for limit in (1, 2, 100):
            seen: list[Entry] = []
            after = -1
            while page := store.by_pk(after, None, limit):
                assert {one.study_pk for one in page}.isdisjoint(one.study_pk for one in seen)
                seen += page
                after = page[-1].study_pk
            assert [one.study_pk for one in seen] == sorted(one.study_pk for one in model.values())
            assert {one.study_iuid: one for one in seen} == model
            assert len(seen) == len(model)
        assert {one.study_iuid for one in store.by_pk(1, 3, 100)} == {
            uid for uid, one in model.items() if 1 < one.study_pk <= 3
        }
        awaiting: list[Entry] = []
        after = -1
        while page := store.unverified(after, 2):
            awaiting += page
            after = page[-1].study_pk
        assert {one.study_iuid: one for one in awaiting} == {
            uid: one for uid, one in model.items() if one.unverified
        }
        assert len(awaiting) == len({one.study_iuid for one in awaiting})


def test_studies_with_the_same_hash_are_told_apart(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ledger, "short_hash", lambda uid: 7)
    some = [entry(f"1.2.{number}", number) for number in range(1, 30)]
    put(store, *some)
    put(store, some[3]._replace(version=99), some[4]._replace(study_pk=500))
    found = store.lookup([one.study_iuid for one in some])
    assert found["1.2.4"].version == 99
    assert found["1.2.5"].study_pk == 500
    assert {uid: one.study_pk for uid, one in found.items() if uid != "1.2.5"} == {
        one.study_iuid: one.study_pk for one in some if one.study_iuid != "1.2.5"
    }
    assert store.lookup(["1.2.77"]) == {}


def test_an_archive_that_numbers_its_studies_anew(store: Store) -> None:
    """A dump loaded elsewhere: every study comes back under a pk that another one had."""
    count = 2000
    some = [entry(f"1.2.{number}", number) for number in range(1, count + 1)]
    put(store, *some)
    shuffled = list(range(1, count + 1))
    random.Random(7).shuffle(shuffled)
    for start in range(0, count, 50):
        part = zip(some[start : start + 50], shuffled[start : start + 50], strict=True)
        put(store, *(one._replace(study_pk=pk) for one, pk in part))
    assert store.count == count
    found = store.lookup([one.study_iuid for one in some])
    assert [found[one.study_iuid].study_pk for one in some] == shuffled
    seen: list[Entry] = []
    while page := store.by_pk(seen[-1].study_pk if seen else -1, None, 300):
        seen += page
    assert [one.study_pk for one in seen] == list(range(1, count + 1))


@pytest.mark.parametrize("how", ["lookup", "by_pk"])
def test_a_study_that_moves_while_it_is_looked_for_is_found(
    store: Store, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Its entry goes from one table to another between two questions."""
    put(store, entry("1.2.3", 5), entry("1.2.4", 2), entry("1.2.5", 2))
    between = iter([lambda: put(store, entry("1.2.3", 2, 9))])

    class Reader:
        def __init__(self, db: sqlite3.Connection) -> None:
            self._db = db

        def execute(self, sql: str, *args: tuple[object, ...]) -> object:
            if "FROM displaced" in sql:
                next(between, lambda: None)()
            return self._db.execute(sql, *args)

    monkeypatch.setattr(store, "_reader", Reader(store._reader))
    if how == "lookup":
        found = list(store.lookup(["1.2.3", "1.2.9"]).values())
    else:
        found = [one for one in store.by_pk(-1, None, 10) if one.study_iuid == "1.2.3"]
    assert found == [entry("1.2.3", 5)]
    monkeypatch.undo()
    assert store.lookup(["1.2.3"]) == {"1.2.3": entry("1.2.3", 2, 9)}


def test_a_pk_that_sqlite_can_not_hold_stops_nothing(store: Store) -> None:
    put(store, entry("1.2.3", 2**64 - 1), entry("1.2.4", 2**64 - 2))
    put(store, entry("1.2.3", 2**64 - 1, 5))
    assert set(store.lookup(["1.2.3", "1.2.4"])) == {"1.2.3", "1.2.4"}
    assert store.count == 2


@pytest.mark.parametrize("rejected", [INVALID, DELETION])
def test_what_stands_for_a_digest_fits_in_its_place(store: Store, rejected: bytes) -> None:
    wanted = entry("1.2.3", 4)._replace(rejected=rejected)
    put(store, wanted)
    assert store.lookup(["1.2.3"]) == {"1.2.3": wanted}


def test_many_are_asked_for_at_once(store: Store) -> None:
    put(store, *(entry(f"1.2.{number}", number) for number in range(3000)))
    found = store.lookup([f"1.2.{number}" for number in range(1000, 5000)])
    assert sorted(one.study_pk for one in found.values()) == list(range(1000, 3000))


def test_the_count_survives_a_restart(store: Store, tmp_path: Path) -> None:
    put(store, *(entry(f"1.2.{number}", number) for number in range(30)))
    put(store, entry("1.2.3", 3, 9))
    store.close()
    again = Store(tmp_path / "state")
    try:
        assert (again.count, again.load().ledger) == (30, 30)
        again.apply(Changes(new_ledger=True, ledger={"1.9": entry("1.9", 4)}))
        assert again.count == 1
        assert again.lookup(["1.2.3", "1.9"]) == {"1.9": entry("1.9", 4)}
        assert [one.study_iuid for one in again.by_pk(-1, None, 10)] == ["1.9"]
    finally:
        again.close()


def test_only_what_was_accepted_is_at_the_index(store: Store, tmp_path: Path) -> None:
    on_its_way = entry("1.2.1", 1, 0)._replace(digest=None, rejected=DOUBT)
    rejected = entry("1.2.2", 2, 0)._replace(digest=None, rejected=bytes(16))
    put(store, on_its_way, rejected, entry("1.2.3", 3), entry("1.2.4", 3))
    assert (store.count, store.held) == (4, 2)
    put(store, entry("1.2.1", 1), entry("1.2.4", 3)._replace(digest=None, deleted=True))
    assert (store.count, store.held) == (4, 2)
    put(store, entry("1.2.2", 2), entry("1.2.4", 3))
    assert (store.count, store.held) == (4, 4)
    put(store, entry("1.2.3", 3)._replace(digest=None, deleted=True))
    store.close()
    state = tmp_path / "state"
    for sql in ("SELECT 1", "DELETE FROM meta WHERE name = 'ledger_held'"):  # as an earlier version leaves it
        with sqlite3.connect(state / "state.sqlite") as db:
            db.execute(sql).fetchall()
        db.close()
        again = Store(state)
        try:
            assert (again.count, again.held) == (4, 3)
        finally:
            again.close()
    again = Store(state)
    try:
        again.apply(Changes(new_ledger=True, ledger={"1.9": entry("1.9", 4)}))
        assert (again.count, again.held) == (1, 1)
    finally:
        again.close()


def test_entries_of_every_kind_are_counted_anew_where_no_count_is_kept(store: Store, tmp_path: Path) -> None:
    digest, flag, count = (None, bytes(16)), (False, True), (None, 1)
    kinds = list(product(digest, flag, digest, flag, count, count, ("1.", "x")))
    for pk, (held, deleted, rejected, unverified, series, instances, uid) in enumerate(kinds):
        put(store, Entry(f"{uid}{pk}", pk, 1, held, deleted, rejected, unverified, series, instances))
    assert store.held == len(kinds) // 2
    store.close()
    with sqlite3.connect(tmp_path / "state/state.sqlite") as db:
        db.execute("DELETE FROM meta WHERE name = 'ledger_held'")
    db.close()
    again = Store(tmp_path / "state")
    try:
        assert again.held == len(kinds) // 2
    finally:
        again.close()

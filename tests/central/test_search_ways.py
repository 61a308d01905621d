"""Whichever way a search goes through a store, it finds the same: compared with a look at every study."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest

from benchmarks.region_studies import CENTERS, as_moved, studies
from central_index import postgres_question, postgres_search, sqlite_search
from central_index.document import parse
from central_index.frequencies import Frequencies
from central_index.model import Filters, Stored
from central_index.postgres_pool import Connection
from central_index.postgres_rows import MOVE
from central_index.postgres_schema import prepare
from central_index.postgres_store import PostgresStore
from central_index.sqlite_schema import snapshot
from central_index.sqlite_store import SqliteStore
from central_index.store import Store
from central_index.words import words_of
from tests.central.postgres import Cluster

_S = TypeVar("_S", bound=Store)

NUMBER = 1_500
#: When they arrived, which is where those without a date stand.
ARRIVED = "2026-03-04 05:06:07"
NOW = datetime.fromisoformat(f"{ARRIVED}+00:00").timestamp()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is many here is few elsewhere."""
    for name, value in (
        ("MOST_COUNTED", 40),
        ("_NEWEST", 60),
        ("_FEW", 200),
        ("_ORDERED_MILLISECONDS", 1_000),
    ):
        monkeypatch.setattr(postgres_search, name, value)
    monkeypatch.setattr(postgres_question, "MOST_COUNTED", 40)
    monkeypatch.setattr(postgres_question, "_NARROW_STUDIES", 100)


def _held() -> list[dict[str, Any]]:
    """In the order of their ids; some without a date, and some with so many names that they have no pairs."""
    many = "^" + " ".join(f"{one}name" for one in "abcdefghijklm")
    return [
        dict(
            one,
            center=CENTERS[one["study_pk"] % 7],
            study_datetime=one["study_datetime"] if one["study_pk"] % 9 else None,
            patient_name=one["patient_name"] + (many if one["study_pk"] % 20 == 0 else ""),
        )
        for one in studies(1, NUMBER)
    ]


async def _fill(database: str) -> list[dict[str, Any]]:
    held = _held()
    async with await Connection.connect(database, autocommit=True) as connection:
        await connection.execute(MOVE, as_moved(held, NOW))
        await connection.execute("ANALYZE studies")
    return held


def _moment(study: dict[str, Any]) -> str:
    return str(study["study_datetime"] or ARRIVED)


def _day(study: dict[str, Any]) -> str:
    return _moment(study)[:10]


def _has(modalities: list[str], wanted: str) -> bool:
    """Each that is asked for, in any order."""
    asked = {one for one in wanted.upper().split("\\") if one}
    return bool(asked) and asked <= {*modalities}


def _matches(study: dict[str, Any], filters: Filters) -> bool:
    if study["study_datetime"] is None and (filters.from_date or filters.to_date):
        return False
    words = words_of(f"{study['patient_name']} {study['patient_id']}")
    wanted = words_of(filters.patient or "")
    return (
        all(any(word.startswith(one) for word in words) for one in wanted)
        and filters.patient_id in (None, study["patient_id"])
        and (filters.modality is None or _has(study["study_modality"].split("\\"), filters.modality))
        and filters.center in (None, study["center"])
        and (filters.only is None or study["center"] in filters.only)
        and (filters.from_date or "") <= _day(study) <= (filters.to_date or "9")
    )


def _questions(held: list[dict[str, Any]], number: int) -> Iterator[Filters]:
    rng = random.Random(7)
    while number:
        some = rng.choice(held)
        words = words_of(some["patient_name"])
        days = sorted((_day(some), _day(rng.choice(held))))
        parts: list[dict[str, Any]] = [
            {
                "patient": rng.choice(
                    [
                        "MARÍA",
                        "m",
                        "1",
                        "M 1",
                        "JOSÉ MARÍA",
                        f"{words[0]} maria",
                        words[-1][:3],
                        words[0],
                        # The index of pairs.
                        f"{words[-1][:5]} {words[0]}",
                        f"{words[1]} mari {words[0][:4]}",
                        "xqz",
                    ]
                )
            },
            {"patient_id": some["patient_id"]},
            {"modality": rng.choice(["CT", "SR", "XA", "ZZ", "SR\\CT"])},
            {"center": rng.choice([some["center"], CENTERS[0], "nowhere"])},
            {"from_date": days[0]},
            {"to_date": days[1]},
            {"from_date": days[0], "to_date": days[0]},
            {"from_date": f"{days[0][:7]}-01", "to_date": f"{days[0][:7]}-28"},
            {"only": (CENTERS[1], CENTERS[2])},
        ]
        found: dict[str, Any] = {}
        for part in rng.sample(parts, rng.choice([1, 1, 2, 2, 3, 4])):
            found |= part
        if found.get("from_date", "") <= found.get("to_date", "9"):
            number -= 1
            yield Filters(**found, limit=rng.choice([3, 20]))


def _days() -> Iterator[Filters]:
    """Some days, among them that at which those without a date stand; with all that the index of dates has besides."""
    for first, last in (
        (ARRIVED[:10], ARRIVED[:10]),
        ("2026-03-01", "2026-03-15"),
        ("2025-11-20", "2025-12-10"),
        # Of few studies, however many days they are.
        (None, "2017-03-01"),
        ("2026-11-10", None),
    ):
        for modality, center, only in itertools.product(
            (None, "CT", "ct", "C", "ZZ", "SR\\ct", "\\"),
            (None, CENTERS[3]),
            (None, (CENTERS[1], CENTERS[2], CENTERS[3])),
        ):
            yield Filters(from_date=first, to_date=last, modality=modality, center=center, only=only, limit=3)


#: Who has these has too many names for pairs.
TOO_MANY = [Filters(patient=patient, limit=20) for patient in ("bname cname", "aname bname cname")]


#: Of many, but hardly of the newest: in order, by what the index of dates says of the modality.
OF_MANY = [
    Filters(patient=patient, modality=modality, center=center, only=only, to_date=last, limit=3)
    for patient, modality, center, only, last in itertools.product(
        ("m", None),
        ("ct", "CT\\SR"),
        (None, CENTERS[3]),
        (None, (CENTERS[1], CENTERS[3])),
        (None, "2022-12-31"),
    )
]


@asynccontextmanager
async def opened(store: _S) -> AsyncIterator[_S]:
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def _compare(store: Store, held: list[dict[str, Any]], questions: Iterable[Filters]) -> None:
    order = sorted(enumerate(held), key=lambda one: (_moment(one[1]), one[0]), reverse=True)
    for filters in questions:
        expected = [one["study_iuid"] for _, one in order if _matches(one, filters)]
        found = await store.search(filters)
        seen = [one["study_iuid"] for one in found.studies]
        assert seen == expected[: filters.limit], filters
        assert (found.hits, found.more_hits) == (min(len(expected), 40), len(expected) > 40), filters
        assert (found.following is None) == (len(expected) <= filters.limit), filters
        if found.following is not None:
            found = await store.search(replace(filters, after=found.following))
            seen = [one["study_iuid"] for one in found.studies]
            assert seen == expected[filters.limit : 2 * filters.limit], filters
            assert (found.following is None) == (len(expected) <= 2 * filters.limit), filters


NUMBERS = pytest.mark.parametrize(
    "number", [60, pytest.param(3_000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])]
)


@pytest.mark.usefixtures("small")
@NUMBERS
def test_every_way_finds_what_is_there(cluster: Cluster, number: int) -> None:
    database = cluster.new_database()

    async def run() -> None:
        held = await _fill(database)
        async with opened(PostgresStore(database, None, lambda: None)) as store:
            # As learnt before the first search.
            assert store._frequencies.often("maria", True)
            assert not store._frequencies.often("xqz", True)
            await _compare(store, held, [*_days(), *TOO_MANY, *OF_MANY, *_questions(held, number)])

    asyncio.run(run())


@NUMBERS
def test_every_way_through_the_embedded_store(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_search, "MOST_COUNTED", 40)
    monkeypatch.setattr(sqlite_search, "_NARROW", 60)
    monkeypatch.setattr(sqlite_search, "_NEWEST", 90)
    held = _held()

    async def run() -> None:
        async with opened(SqliteStore(tmp_path / "central.sqlite", lambda: None)) as store:
            await store.write([Stored(None, NOW, parse(one), one["study_pk"]) for one in held])
            await _compare(store, held, [*_days(), *TOO_MANY, *OF_MANY, *_questions(held, number * 3)])

    asyncio.run(run())


@pytest.mark.parametrize(
    ("patient", "center", "by_words"),
    [
        ("1", None, False),
        ("m 1", None, False),
        ("Ñ", None, True),
        ("pena", None, True),
        ("1", CENTERS[0], True),
    ],
)
def test_a_beginning_that_most_have_isn_t_gathered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patient: str, center: str | None, by_words: bool
) -> None:
    """By the index of words a figure with which all ids begin takes ten times as long as anything else."""
    monkeypatch.setattr(sqlite_search, "MOST_COUNTED", 40)
    monkeypatch.setattr(sqlite_search, "_NEWEST", 60)
    path = tmp_path / "central.sqlite"

    async def run() -> None:
        store = SqliteStore(path, lambda: None)
        await store.open()
        held = [dict(one, patient_id=f"1{n}", patient_name="PEÑA^MÍA", center=CENTERS[n % 2])
                for n, one in enumerate(studies(1, 80))]  # fmt: skip
        await store.write([Stored(None, NOW, parse(one), one["study_pk"]) for one in held])
        await store.close()

    asyncio.run(run())
    with snapshot(path) as connection:
        asked: list[str] = []
        connection.set_trace_callback(asked.append)
        found = sqlite_search.search(connection, Filters(patient=patient, center=center, limit=20))
    assert len(found.studies) == (0 if patient == "Ñ" else 20)
    assert any("MATCH" in one for one in asked) == by_words


class Explained:
    """A connection that notes by which way each statement goes, and how that is carried out."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.plans: dict[str, str] = {}
        self.transaction = connection.transaction

    async def execute(self, statement: str, values: Any = None, *, prepare: bool | None = None) -> Any:
        if "FROM studies" in statement:
            rows = await self._connection.execute(f"EXPLAIN (COSTS OFF) {statement}", values)
            way = "in order"
            if "JOIN studies AS s ON s.center = page.center AND s.sorted_at" in statement:
                way = "days"
            elif "LATERAL" in statement:
                way = "of modality"
            elif "FROM matching), *" in statement:
                way = "in order, counted"
            elif "WITH matching" in statement:
                way = f"{'pairs' if 'study_pairs' in statement else 'sorted'}, {values[-1]} at most"
            elif "AS newest" in statement:
                way = "newest"
            self.plans[way] = "\n".join(line for (line,) in await rows.fetchall())
        return await self._connection.execute(statement, values, prepare=prepare)


NEWEST, SOME, MORE, IN_ORDER = "newest", "sorted, 40 at most", "sorted, 200 at most", "in order"
DAYS, COUNTED, PAIRS = "days", "in order, counted", "pairs, 200 at most"
OF_MODALITY = "of modality"


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("filters", "ways"),
    [
        ({"patient": "maria", "limit": 3}, [NEWEST]),
        # Few of the newest: to fetch all that match is done at once, not first some and then more.
        ({"patient": "maria", "limit": 50}, [NEWEST, MORE, IN_ORDER]),
        # Hardly any of them has both.
        ({"patient": "maria jose"}, [PAIRS]),
        # Some of them: the page is full soon.
        ({"patient": "m", "modality": "CT", "to_date": "2022-12-31"}, [NEWEST, SOME, OF_MODALITY]),
        # Of a rare word there is none among the newest.
        ({"patient": "xqz"}, [MORE]),
        ({"from_date": "2026-03-01", "to_date": "2026-03-15"}, [DAYS]),
        ({"from_date": "2026-03-04", "to_date": "2026-03-04", "modality": "sr"}, [DAYS]),
        # Both of them.
        ({"from_date": "2026-03-04", "to_date": "2026-03-04", "modality": "CT\\SR"}, [DAYS]),
        # Years with few studies.
        ({"to_date": "2017-03-01", "modality": "sr"}, [DAYS]),
        ({"to_date": "2017-03-01", "patient": "maria"}, [COUNTED]),
        ({"from_date": "2020-03-01", "to_date": "2026-03-15"}, [COUNTED]),
        ({"from_date": "2026-03-04", "to_date": "2026-03-04", "patient": "maria"}, [COUNTED]),
    ],
)
def test_the_way_that_is_taken(cluster: Cluster, filters: dict[str, Any], ways: list[str]) -> None:
    database = cluster.new_database()

    async def run() -> dict[str, str]:
        await _fill(database)

        async def explain(connection: Connection) -> dict[str, str]:
            frequencies = await postgres_search.frequencies(connection)
            # As for the planner of a large table: the way in order looks long.
            await connection.execute("SET LOCAL random_page_cost = 100")
            explained: Any = Explained(connection)
            wanted = Filters(**{"limit": 20, **filters})
            assert await postgres_search.search(explained, wanted, frequencies, at_once=True) is not None
            plans: dict[str, str] = explained.plans
            return plans

        async with opened(PostgresStore(database, None, lambda: None)) as store:
            return await store._readers.run(explain)

    plans = asyncio.run(run())
    assert list(plans) == ways
    if DAYS in plans:
        # Only what is shown is read from the table.
        assert (
            "Index Only Scan Backward using studies_00_sorted_at_id_center_study_modality_idx" in plans[DAYS]
        )
        assert "Index Only Scan using studies_00_sorted_at_id_idx" in plans[DAYS]
        # The month in which a centre first came may have thousands without a date: none is compared with all others.
        assert "hashed SubPlan" in plans[DAYS]
    if OF_MODALITY in plans:
        # What has another modality isn't read, and no row is looked for among all.
        assert "Index Only Scan Backward using studies_00_sorted_at_id_center" in plans[OF_MODALITY]
        assert "Materialize" not in plans[OF_MODALITY]
        assert "Sort  " not in plans[OF_MODALITY]
    if IN_ORDER in plans:
        # The planner takes words for rarer than they are, and would rather fetch all and sort it.
        assert "Bitmap" not in plans[IN_ORDER]
        assert "Merge Append" in plans[IN_ORDER]


def test_however_many_have_no_date_none_is_compared_with_all_others(cluster: Cluster) -> None:
    """The month in which a region first came has hundreds of thousands."""
    database = cluster.new_database()
    name = database.rpartition("/")[2]
    cluster.execute(
        name,
        "INSERT INTO studies (study_iuid, center, study_pk, first_received_at, received_at, digest_low, sorted_at)"
        " SELECT n::text, (n % 50)::text, n, 0, 0, 1, '2026-03-04 05:06:07' FROM generate_series(1, 8000) AS n;"
        " ANALYZE studies",
    )

    async def run() -> str:
        async def explain(connection: Connection) -> str:
            # Eight thousand are as many for it as half a million are for the usual 4 MB.
            await connection.execute("SET LOCAL work_mem = '64kB'")
            explained: Any = Explained(connection)
            filters = Filters(from_date="2026-03-01", to_date="2026-03-15", modality="CT")
            await postgres_search.search(explained, filters, Frequencies({}), at_once=True)
            return str(explained.plans[DAYS])

        async with opened(PostgresStore(database, None, lambda: None)) as store:
            return await store._readers.run(explain)

    assert "hashed SubPlan" in asyncio.run(run())


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        ({"patient": "xqz"}, True),
        ({"patient_id": "nobody's", "modality": "CT", "from_date": "2020-01-01"}, True),
        ({"from_date": "2026-03-04", "to_date": "2026-03-04", "modality": "CT"}, True),
        # In one centre there may be many, or few.
        ({"patient": "xqz", "center": CENTERS[1]}, False),
        ({"from_date": "2026-03-04", "to_date": "2026-03-04", "only": (CENTERS[1],)}, False),
        ({"patient": "maria"}, False),
        # Hardly one of the newest has both.
        ({"patient": "maria jose"}, True),
        # A date that nothing is known of looks as if it left little.
        ({"patient": "maria jose", "from_date": "2020-01-01"}, False),
    ],
)
@pytest.mark.usefixtures("small")
def test_what_always_goes_the_same_way_is_planned_once(
    cluster: Cluster, filters: dict[str, Any], kept: bool
) -> None:
    database = cluster.new_database()

    async def run() -> tuple[int, int]:
        await _fill(database)
        async with await Connection.connect(database, autocommit=True) as connection:
            frequencies = await postgres_search.frequencies(connection)
            for _ in range(7):
                # Another search in between, which is planned anew.
                for wanted in (filters, {"patient": "maria"}):
                    await postgres_search.search(connection, Filters(**wanted, limit=20), frequencies)
            rows = await connection.execute(
                "SELECT sum(generic_plans), sum(custom_plans) FROM pg_prepared_statements"
                " WHERE statement LIKE '%FROM studies%' AND generic_plans > 0"
            )
            once, anew = (await rows.fetchall())[0]
            return int(once or 0), int(anew or 0)

    assert asyncio.run(run()) == ((7, 0) if kept else (0, 0))


def test_a_search_by_days_leaves_nothing_off_for_others(cluster: Cluster) -> None:
    """What arrived today is found by an index that nothing but a bitmap can use."""
    database = cluster.new_database()

    async def settings(connection: Connection) -> list[Any]:
        rows = await connection.execute(
            "SELECT current_setting('enable_bitmapscan'), current_setting('plan_cache_mode')"
        )
        return await rows.fetchall()

    async def run() -> None:
        async with opened(PostgresStore(database, None, lambda: None)) as store:
            await store.search(Filters(from_date="2026-03-04", to_date="2026-03-04"))
            assert await store._searches.run(settings) == [("off", "force_generic_plan")]
            assert await store._readers.run(settings) == [("on", "force_custom_plan")]

    asyncio.run(run())


def test_a_server_without_pairs_is_asked_without(cluster: Cluster) -> None:
    """Another one took over, or the standby hasn't got so far."""
    database = cluster.new_database()

    async def run() -> None:
        held = await _fill(database)
        async with opened(PostgresStore(database, None, lambda: None)) as store:
            assert store._frequencies.pairs
            cluster.execute(database.rpartition("/")[2], "DROP FUNCTION study_pairs CASCADE")
            await _compare(store, held, [Filters(patient="maria jose", limit=20)])
            await store._learn()
            assert not store._frequencies.pairs

    asyncio.run(run())


def test_a_schema_may_have_any_name(cluster: Cluster) -> None:
    database = cluster.new_database(empty=True)
    name = database.rpartition("/")[2]
    cluster.execute(name, f'CREATE SCHEMA "Ce ntral"; ALTER DATABASE {name} SET search_path = "Ce ntral"')

    async def run() -> None:
        async with await Connection.connect(database, autocommit=True) as connection:
            await prepare(connection)
        await _fill(database)
        async with opened(PostgresStore(database, None, lambda: None)) as store:
            assert store._frequencies.pairs
            everything = store._frequencies.between("0001-01-01 00:00:00", "9999-12-31 00:00:00")
            assert everything == pytest.approx(NUMBER)

    asyncio.run(run())

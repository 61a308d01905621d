"""How PostgreSQL is asked for what a reader looks for."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest

from central_index import postgres_question
from central_index.frequencies import Dates, Frequencies
from central_index.model import Filters
from central_index.words import pairs_asked, tokens_of, words_of
from tests.central.postgres import Cluster

COMMON = Frequencies(
    {
        "maria": 0.1,
        "soto": 0.004,
        "sotomayor": 0.003,
        "rojas": 0.04,
        "rara": 0.001,
    },
    0.001,
    1_000_000,
)


@pytest.mark.parametrize(
    ("patient", "words", "besides"),
    [
        # As many as twenty times the rarest: both are gathered, and few rows are read.
        ("soto rara", "'soto':* & 'rara':*", None),
        ("soto xqz", "'soto':* & 'xqz':*", None),
        ("rara maria", "'rara':*", "'maria':*"),
        ("rojas rara maria xqz", "'rara':* & 'xqz':*", "'rojas':* & 'maria':*"),
        ("maria soto", "'maria':* & 'soto':*", None),
    ],
)
def test_which_words_the_index_of_words_gathers(patient: str, words: str, besides: str | None) -> None:
    question = postgres_question.question_of(Filters(patient=patient, limit=20), COMMON)
    assert question is not None
    assert (question.words, question.besides) == (words, besides)


@pytest.mark.parametrize(
    ("filters", "many"),
    [
        ({"patient": "maria"}, True),
        ({"patient": "soto"}, False),
        ({"patient": "maria jose"}, False),
        # Of so many a part only is asked for, which may have none.
        ({"patient": "maria", "center": "001"}, False),
        ({"patient": "maria", "only": ("001",)}, False),
        ({"patient": "maria", "from_date": "2020-01-01"}, False),
    ],
)
def test_what_so_many_have_isn_t_counted(filters: dict[str, Any], many: bool) -> None:
    question = postgres_question.question_of(Filters(**filters, limit=20), COMMON)
    assert question is not None
    assert question.many == many


@pytest.mark.parametrize(
    ("words", "by_date"), [({"patient": "xqz"}, False), ({"patient": "maria"}, True), ({}, True)]
)
def test_the_index_of_dates_is_left_to_what_many_have(words: dict[str, Any], by_date: bool) -> None:
    question = postgres_question.question_of(Filters(**words, from_date="2015-01-01", limit=20), COMMON)
    assert question is not None
    assert ("sorted_at" in question.conditions) == by_date
    assert len(question.values) == question.conditions.count("%s")


NAMES_OF_MANY = Frequencies(
    {
        "maria": 0.1,
        "mariana": 0.02,
        "gonzalez": 0.04,
        "juan": 0.03,
        "jose": 0.03,
        "rara": 0.001,
        "perez": 0.01,
        "ximena": 0.02,
    },
    0.0005,
    100_000_000,
    pairs=True,
)


@pytest.mark.parametrize(
    ("patient", "pairs"),
    [
        ("juan gonzalez", "'gonjuazna':* | '='"),
        ("perez ximena", "'perximeezn':* | '='"),
        ("GONZÁLEZ^JUAN JOSÉ", "'gonjoszea':* & 'gonjuazna':* & 'josjuaen':* | '='"),
        # Up to the first letter that isn't known.
        ("juan g", None),
        ("juan gon", "'gonjua':* | '='"),
        ("jua gonz", "'gonjuaz':* | '='"),
        ("juan", None),
        # One name may be what both mean.
        ("maria mariana", None),
        ("mari maria gonzalez", "'gonmarzia':* & 'gonmarziaa':* | '='"),
        # Few have it: there are fewer than with names that begin like both.
        ("rara gonzalez", "'gonrarzaa':* | '='"),
        ("mariaxqz gonzalez", None),
        # So many that it is too many to be asked for.
        (" ".join(f"{one}xqz" for one in "abcdefghijklm"), None),
        # Figures are ids.
        ("1234567 juan", None),
    ],
)
def test_which_pairs_are_asked_for(patient: str, pairs: str | None) -> None:
    question = postgres_question.question_of(Filters(patient=patient, limit=20), NAMES_OF_MANY)
    assert question is not None
    assert question.pairs == pairs


@pytest.mark.parametrize(
    "filters",
    [
        {"patient": "perez ximena", "patient_id": "12345678-9"},
        {"patient": "perez ximena", "accession_number": "A1"},
        {"patient": "12345678 perez ximena"},
        # It begins as a name that many have, and few have it.
        {"patient": "perezcotapos ximena"},
    ],
)
def test_what_is_rarer_than_pairs_is_asked_for(filters: dict[str, Any]) -> None:
    question = postgres_question.question_of(Filters(**filters, limit=20), NAMES_OF_MANY)
    assert question is not None
    assert question.pairs is None


def test_of_a_name_that_isn_t_known_pairs_are_asked_for_where_they_cost_little() -> None:
    few = Frequencies({"perez": 0.01, "ximena": 0.002}, 0.0005, 10_000_000, pairs=True)
    question = postgres_question.question_of(Filters(patient="perezcotapos ximena", limit=20), few)
    assert question is not None
    assert question.pairs is not None


def test_how_many_stand_between_two_moments() -> None:
    assert Frequencies({}).between("2020", "2021") is None
    bounds = [f"20{year}-01-01 00:00:00" for year in range(10, 21)]
    some = Frequencies(
        {},
        dates=[
            Dates(1_000, ["2015-05-05 00:00:00"], [0.2], bounds),
            Dates(100, None, None, [*bounds, "1/1/2011"]),
            Dates(10, None, None, None),
        ],
    )

    def between(first: str, last: str) -> float:
        found = some.between(f"{first} 00:00:00", f"{last} 23:59:59")
        assert found is not None
        return found

    # The common one, and the others of a year.
    assert between("2015-01-01", "2015-12-31") == pytest.approx(200 + 80 + 10, abs=0.1)
    # A part of one.
    assert between("2012-01-01", "2012-02-29") == pytest.approx((80 + 10) * 60 / 366, abs=0.1)
    assert between("0001-01-01", "2010-12-31") == pytest.approx(80 + 10, abs=0.1)
    assert between("0001-01-01", "9999-12-31") == pytest.approx(1_100)
    assert between("2021-01-01", "9999-12-31") == 0.0
    # However few bounds there are.
    few = Dates(400_000, None, None, ["2016-01-01 00:00:00", "2026-01-01 00:00:00"])
    assert few.between("2016-06-01 00:00:00", "2025-06-01 23:59:59") == pytest.approx(360_000, rel=0.01)


def test_how_many_have_a_word() -> None:
    assert COMMON.share("soto", True) == pytest.approx(0.007)
    assert COMMON.share("soto", False) == 0.004
    assert COMMON.share("sot", True) == pytest.approx(0.007)
    assert COMMON.share("xqz", True) == 0.001
    assert COMMON.often("soto", True)
    assert not COMMON.often("rara", True)
    assert Frequencies({}).share("maria", True) == 0.0


NAMES = [
    "GONZÁLEZ PÉREZ^JUAN CARLOS",
    "MUÑOZ^ANA",
    # Both begin alike, and so do a name and what it begins with.
    "MARIA^MARIANA JOSE",
    "",
    "ŻÓŁĆ ŻÓŁĆKI^ŁUKASZ",
    "李明 山田太郎^やまだたろう さくらさくら",
    "Ὀδυσσεύς ΠΗΝΕΛΟΠΗ ß ẞtraße İstanbul ﬁlip",
    "𝔊𝔬𝔫𝔷𝔞𝔩𝔢𝔷 😀😀😀😀 ａｂｃｄｅ",
    "O'BRIEN D'ARCY \\\\ ' :* & | ! <->",
    *(" ".join(f"{chr(97 + n)}name" for n in range(number)) for number in (12, 13)),
    "a" * 300 + " " + "b" * 300,
]


def _pairs(names: list[str]) -> list[str]:
    found = set()
    starts = sorted({name[:5] for name in names if len(name) >= 3 and name >= "a"})
    for one, two in itertools.combinations(starts, 2):
        a, b = one.ljust(5, "."), two.ljust(5, ".")
        found.add(a[:3] + b[:3] + a[3] + b[3] + a[4] + b[4])
    return sorted(found) if len(starts) <= 12 else ["="]


def _made(database: str, names: list[str]) -> list[list[str]]:
    """What PostgreSQL makes of studies with these names."""
    found = []
    with psycopg.connect(database) as connection:
        for name in names:
            study = {
                "patient_name": name,
                "patient_id": "1.234.567-K",
                "center": "000",
                "study_modality": "CT",
            }
            rows = connection.execute(
                "SELECT tsvector_to_array(study_pairs(array_to_tsvector(%s::text[])))", [tokens_of(study)]
            )
            ((pairs,),) = rows.fetchall()
            found.append(pairs)
    return found


def test_the_pairs_of_a_study(cluster: Cluster) -> None:
    rng = random.Random(7)
    # Of any letters there are.
    letters = [one for one in map(chr, range(0x3000)) if one.isalnum()]
    names = [*NAMES, *(_some(rng, letters, range(2, 8), 4) for _ in range(500))]
    for name, pairs in zip(names, _made(cluster.new_database(), names), strict=True):
        assert pairs == _pairs(words_of(name)), name


def test_a_study_has_the_pairs_that_are_asked_for(cluster: Cluster) -> None:
    """Where all beginnings are those of its words; of two letters, so that words are often alike."""
    rng = random.Random(7)
    names = [_some(rng, "ab", range(1, 8), 4) for _ in range(300)]
    asked = 0
    for name, pairs in zip(names, _made(cluster.new_database(), names), strict=True):
        words = words_of(name)
        for _ in range(50):
            beginnings = [rng.choice(words) for _ in range(rng.randrange(2, 4))]
            beginnings = [one[: rng.randrange(1, 8)] for one in beginnings]
            for wanted in pairs_asked(beginnings):
                asked += 1
                assert any(pair.startswith(wanted.text) for pair in pairs), (name, beginnings)
    assert asked > 1_000


def _some(rng: random.Random, letters: Sequence[str], lengths: range, number: int) -> str:
    return " ".join("".join(rng.choices(letters, k=rng.choice(lengths))) for _ in range(number))

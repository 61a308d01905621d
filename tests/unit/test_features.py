"""What an index says that it can: learned from its own answers, and forgotten slowly."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_indexer.delivery.features import ANSWERS_WITHOUT, LARGEST_BATCH, Known, parse_features

ALL = "versions, digests, reports, batch=500"


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (ALL, {"versions": 1, "digests": 1, "reports": 1, "batch": 500}),
        ("Versions,BATCH = 20", {"versions": 1, "batch": 20}),
        ("versions, telepathy, level=9", {"versions": 1}),
        ("batch, versions=2", {}),
        ("batch=0, batch=-1, batch=x, batch=1e3, batch=99999999, batch=\u0663", {}),
        ("", {}),
        (",, ,", {}),
    ],
)
def test_a_header_is_any_subset_and_what_is_unknown_is_ignored(header: str, found: dict[str, int]) -> None:
    assert parse_features(header) == found


def test_a_feature_is_forgotten_after_ten_answers_in_a_row_without_it() -> None:
    assert ANSWERS_WITHOUT == 10
    told: list[dict[str, int]] = []
    known = Known(on_change=lambda known: told.append(dict(known.features)))
    known.taught(ALL)
    for _ in range(3):
        for _ in range(ANSWERS_WITHOUT - 1):
            known.taught("versions")
        assert "digests" in known.features
        known.taught(ALL)
    for _ in range(ANSWERS_WITHOUT):
        known.taught("versions")
    assert known.features == {"versions": 1}
    for _ in range(ANSWERS_WITHOUT):
        known.taught(None)
    assert known.features == {}
    assert told == [{"versions": 1, "digests": 1, "reports": 1, "batch": 500}, {"versions": 1}, {}]


def test_another_size_counts_at_once() -> None:
    known = Known()
    known.taught("batch=500")
    assert known.largest_batch == LARGEST_BATCH
    known.taught("batch=20")
    assert known.largest_batch == 20


def test_an_index_that_refuses_arrays_gets_none_until_it_says_something_new() -> None:
    known = Known(features={"batch": 50})
    for _ in range(2):
        known.array_refused()
    known.array_taken()
    for _ in range(2):
        known.array_refused()
    assert known.largest_batch == 50
    known.array_refused()
    assert known.largest_batch == 1
    known.taught("batch=50")
    assert known.largest_batch == 1
    known.taught("batch=60")
    assert known.largest_batch == 60


def test_it_can_be_kept() -> None:
    known = Known()
    known.taught(ALL)
    known.answered_json()
    again = Known.of(json.loads(json.dumps(known.as_dict())))
    assert (again.json_seen, again.features) == (True, known.features)
    # Once seen, versions are always sent, whatever is forgotten; only what a plain 409 means is open then.
    assert not again.versions_forgotten
    for _ in range(ANSWERS_WITHOUT):
        again.taught(None)
    assert again.versions_forgotten
    again = Known.of(again.as_dict())
    assert (again.features, again.versions_seen, again.versions_forgotten) == ({}, True, True)


@pytest.mark.parametrize(
    "kept", [None, 7, [], {}, {"json_seen": 1, "features": 3}, {"features": {"batch": "x"}}]
)
def test_what_was_damaged_teaches_nothing(kept: object) -> None:
    known = Known.of(kept)
    assert (known.json_seen, known.features, known.versions_seen) == (False, {}, False)


@given(st.lists(st.sampled_from([None, "", ALL, "batch=3", "versions", "digests, x"]), max_size=60))
def test_it_is_as_a_plain_count_would_have_it(headers: list[str | None]) -> None:
    known = Known()
    for header in headers:
        known.taught(header)
    for name in ("versions", "digests", "reports", "batch"):
        said = [name in parse_features(header or "") for header in headers]
        last = max((number for number, one in enumerate(said) if one), default=None)
        expected = last is not None and len(headers) - 1 - last < ANSWERS_WITHOUT
        assert (name in known.features) is expected

"""The settled set against the plainest model there is: Python's own set."""

from __future__ import annotations

import itertools
import json
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_indexer.model.settled import EPOCH, MAX_BUCKETS, IntervalSet, Settled, minute_of

numbers = st.integers(min_value=0, max_value=60)
steps = st.lists(st.tuples(st.sampled_from(["add", "remove"]), numbers, st.integers(0, 9)), max_size=60)


def members(intervals: IntervalSet) -> set[int]:
    return {number for start, end in intervals for number in range(start, end + 1)}


@given(steps)
def test_interval_set_is_a_set_of_numbers(actions: list[tuple[str, int, int]]) -> None:
    model: set[int] = set()
    ours = IntervalSet()
    for action, start, length in actions:
        span = range(start, start + length + 1)
        if action == "add":
            ours.add(start, start + length)
            model |= set(span)
        else:
            ours.remove(start, start + length)
            model -= set(span)
        assert members(ours) == model
        assert all((number in ours) == (number in model) for number in range(75))
    pairs = list(ours)
    # Sorted, disjoint and never adjacent: the fewest intervals there can be.
    assert all(left[1] + 1 < right[0] for left, right in itertools.pairwise(pairs))
    assert IntervalSet.parse(json.loads(ours.render())) == ours
    assert IntervalSet.parse(json.loads(json.dumps(pairs))) == ours  # as the first format had it


def test_interval_set_refuses_a_backward_interval() -> None:
    with pytest.raises(ValueError, match="can't end"):
        IntervalSet([(5, 4)])


def test_largest_intervals_come_first() -> None:
    assert IntervalSet([(1, 2), (10, 30), (40, 44)]).largest(2) == [(10, 30), (40, 44)]


START = datetime(2026, 3, 1, 12, 0)
rows = st.lists(
    st.tuples(
        st.integers(2**63, 2**63 + 200), st.integers(0, 20 * 60).map(lambda s: START + timedelta(seconds=s))
    ),
    unique_by=lambda row: row[0],
    max_size=80,
)


@given(rows, st.integers(0, 20))
def test_settled_survives_the_file_and_forgets_by_the_minute(
    settled_rows: list[tuple[int, datetime]], minutes: int
) -> None:
    settled = Settled()
    for row_id, recorded_at in settled_rows:
        settled.add(row_id, recorded_at)
    until = START + timedelta(minutes=minutes)
    settled.advance(until)
    again = Settled.parse(json.loads(settled.render()))
    for row_id, recorded_at in settled_rows:
        kept = minute_of(recorded_at) >= until
        assert (row_id in settled) == kept
        assert (row_id in again) == kept
    assert again.until == settled.until == until
    assert again.render() == settled.render()


def test_until_never_moves_back_by_advance() -> None:
    settled = Settled(START)
    settled.advance(START - timedelta(minutes=1))
    assert settled.until == START
    settled.retreat(START - timedelta(hours=1))
    assert settled.until == START - timedelta(hours=1)


def test_a_row_older_than_until_is_judged_by_its_id() -> None:
    settled = Settled(START)
    assert 7 not in settled  # the clock went back: recorded before `until`, and yet new
    settled.add(7, START - timedelta(minutes=30))
    assert 7 in settled


def test_a_million_consecutive_ids_are_one_interval_a_minute() -> None:
    settled = Settled()
    for number in range(1_000_000):
        settled.add(number, EPOCH + timedelta(microseconds=600 * number))
    assert len(settled) == 10
    assert len(settled.render()) < 1000


def test_a_backlog_of_weeks_stays_small_and_forgets_nothing() -> None:
    settled = Settled()
    moments = [START + timedelta(minutes=7 * number) for number in range(5000)]
    for number, moment in enumerate(moments):
        settled.add(2 * number, moment)  # never adjacent: the worst case
    assert settled.render().count("\n") < MAX_BUCKETS + 10
    again = Settled.parse(json.loads(settled.render()))
    assert again.render() == settled.render()
    for kept in (settled, again):
        assert all(2 * number in kept for number in range(5000))
        kept.advance(moments[2500])
        assert all(2 * number in kept for number in range(2500, 5000))
        kept.advance(moments[-1] + timedelta(minutes=1))
        assert len(kept) == 0
        assert 0 not in kept


@pytest.mark.parametrize(
    "document", [None, [], {}, {"until": "x", "minutes": {}}, {"until": "2026-01-01", "minutes": 3}]
)
def test_parse_refuses_what_is_not_a_settled_set(document: object) -> None:
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        Settled.parse(document)


operations = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(2**63, 2**63 + 300), st.integers(0, 90)),
        st.tuples(st.just("advance"), st.just(0), st.integers(0, 90)),
        st.tuples(st.just("save"), st.just(0), st.just(0)),
    ),
    max_size=80,
)


@given(operations, st.sampled_from([4, 8, MAX_BUCKETS]))
@settings(deadline=None)
def test_what_changed_is_enough_to_have_all_of_it(actions: list[tuple[str, int, int]], most: int) -> None:
    """Also where minutes are merged into coarser spans, and what was merged is forgotten."""
    kept: dict[str, str] = {}
    settled = Settled()

    def save() -> None:
        for name, ids in settled.render_changed().items():
            if ids is None:
                kept.pop(name, None)
            else:
                kept[name] = ids
        again = Settled.load(settled.until, kept)
        assert again.render() == settled.render()
        assert again.render_changed() == {}
        assert settled.render_changed() == {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cdc_indexer.model.settled.MAX_BUCKETS", most)
        for action, row_id, minute in actions:
            moment = START + timedelta(minutes=minute)
            if action == "add":
                settled.add(row_id, moment)
            elif action == "advance":
                settled.advance(moment)
            else:
                save()
        save()


def test_only_the_minutes_that_changed_are_rendered_again() -> None:
    settled = Settled()
    for minute in range(20):
        settled.add(minute, START + timedelta(minutes=minute))
    assert len(settled.render_changed()) == 20
    settled.add(100, START + timedelta(minutes=3))
    assert settled.render_changed() == {"2026-03-01T12:03": "[3,1,96,1]"}
    settled.advance(START + timedelta(minutes=2))
    assert settled.render_changed() == {"2026-03-01T12:00": None, "2026-03-01T12:01": None}


@pytest.mark.parametrize("buckets", [{"x": "[1,1]"}, {"2026-03-01T12:00": "[1]"}, {"2026-03-01T12:00": "{"}])
def test_load_refuses_what_is_not_a_settled_set(buckets: dict[str, str]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Settled.load(START, buckets)

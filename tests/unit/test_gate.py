"""Who is to blame: the study, the central index, or nobody yet. The clock is the tests' own."""

from __future__ import annotations

import random

import pytest

from cdc_indexer.flow.gate import Gate, Gatekeeper
from cdc_indexer.model.outcome import Kind, Outcome

FAILED = Outcome(Kind.RETRY_STUDY, 500, reason="failing")
UNREACHABLE = Outcome(Kind.RETRY_INDEX, reason="nobody there")
REFUSED = Outcome(Kind.HELD, 401, reason="another key")

GIVE_UP_SECONDS = 60.0


@pytest.fixture
def keeper() -> Gatekeeper:
    return Gatekeeper(GIVE_UP_SECONDS, concurrency=8, rng=random.Random(1))


def fails(keeper: Gatekeeper, since: float, now: float, *, key: str = "odd", probe: bool = False) -> bool:
    """Whether the study is given up."""
    return keeper.failed(key, since, FAILED, now, probe=probe)[0]


def gate(keeper: Gatekeeper) -> Gate:
    return keeper.gate


def first_failure(keeper: Gatekeeper, now: float, key: str = "odd") -> float:
    since = keeper.open_seconds(now)
    assert not fails(keeper, since, now, key=key)
    return since


def test_a_study_that_alone_keeps_failing_is_given_up_when_its_time_is_over(keeper: Gatekeeper) -> None:
    since = first_failure(keeper, 100)
    keeper.answered(130)
    assert not fails(keeper, since, 100 + GIVE_UP_SECONDS - 1)
    assert fails(keeper, since, 100 + GIVE_UP_SECONDS)


def test_not_while_no_other_was_taken_since_it_began(keeper: Gatekeeper) -> None:
    keeper.answered(99)
    since = first_failure(keeper, 100)
    assert not fails(keeper, since, 100 + 10 * GIVE_UP_SECONDS)


@pytest.mark.parametrize("outage", [(Gate.AWAY, UNREACHABLE), (Gate.HELD, REFUSED)])
def test_an_outage_does_not_count(keeper: Gatekeeper, outage: tuple[Gate, Outcome]) -> None:
    """A night without the index is not the time of a study that had failed once before; the rest of its time is."""
    keeper.answered(0)
    since = first_failure(keeper, 100)
    keeper.answered(110)
    keeper.close(*outage, 111, probe=False)
    assert keeper.open_seconds(20_000) == keeper.open_seconds(111)
    keeper.answered(40_000)
    assert gate(keeper) is Gate.OPEN
    assert not fails(keeper, since, 40_001)
    keeper.answered(40_002)
    assert not fails(keeper, since, 40_000 + GIVE_UP_SECONDS - 12)
    assert fails(keeper, since, 40_000 + GIVE_UP_SECONDS - 11)


@pytest.mark.parametrize("outage", [(Gate.AWAY, UNREACHABLE), (Gate.HELD, REFUSED)])
def test_a_probe_that_fails_is_the_indexs_fault(keeper: Gatekeeper, outage: tuple[Gate, Outcome]) -> None:
    """The probe may be just the study whose time is all but over; what comes back from a dying index says nothing."""
    since = first_failure(keeper, 100)
    keeper.answered(110)
    keeper.close(*outage, 100 + GIVE_UP_SECONDS, probe=False)
    assert not fails(keeper, since, 5_000, probe=True)
    assert gate(keeper) is not Gate.OPEN
    assert keeper.probe_at > 5_000


def test_what_was_in_flight_when_the_gate_closed_is_not_given_up(keeper: Gatekeeper) -> None:
    since = first_failure(keeper, 100)
    keeper.answered(110)
    keeper.close(Gate.AWAY, UNREACHABLE, 100 + GIVE_UP_SECONDS, probe=False)
    assert not fails(keeper, since, 101 + GIVE_UP_SECONDS)


def test_an_index_that_fails_on_as_many_as_are_under_way_is_away(keeper: Gatekeeper) -> None:
    for number in range(7):
        first_failure(keeper, 100 + number, key=str(number))
    assert gate(keeper) is Gate.OPEN
    first_failure(keeper, 108, key="7")
    assert gate(keeper) is Gate.AWAY


def test_a_study_that_fails_often_counts_once(keeper: Gatekeeper) -> None:
    since = first_failure(keeper, 100)
    for second in range(20):
        assert not fails(keeper, since, 100.0 + second)
    assert gate(keeper) is Gate.OPEN


def test_one_that_is_taken_clears_the_others(keeper: Gatekeeper) -> None:
    for number in range(7):
        first_failure(keeper, 100, key=str(number))
    keeper.answered(101)
    first_failure(keeper, 102, key="7")
    assert gate(keeper) is Gate.OPEN


def test_one_that_was_given_up_no_longer_counts(keeper: Gatekeeper) -> None:
    since = first_failure(keeper, 100)
    keeper.answered(110)
    assert not fails(keeper, since, 120)
    assert fails(keeper, since, 100 + GIVE_UP_SECONDS)
    for number in range(7):
        first_failure(keeper, 200, key=str(number))
    assert gate(keeper) is Gate.OPEN


def test_one_study_at_a_time_still_needs_a_second_one_to_blame_the_index() -> None:
    keeper = Gatekeeper(GIVE_UP_SECONDS, concurrency=1, rng=random.Random(1))
    first_failure(keeper, 100, key="a")
    assert gate(keeper) is Gate.OPEN
    first_failure(keeper, 101, key="b")
    assert gate(keeper) is Gate.AWAY


def test_many_answers_of_one_outage_are_one_step_of_the_backoff(keeper: Gatekeeper) -> None:
    """Eight refusals that were in flight together: the pause is that of the first."""
    keeper.close(Gate.AWAY, UNREACHABLE, 100, probe=False)
    first = keeper.probe_at
    for _ in range(7):
        keeper.close(Gate.AWAY, UNREACHABLE, 100.01, probe=False)
    assert keeper.probe_at == first
    keeper.close(Gate.AWAY, UNREACHABLE, 101, probe=True)
    assert keeper.probe_at != first

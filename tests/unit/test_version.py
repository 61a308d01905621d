"""The hybrid logical clock that versions come from."""

from __future__ import annotations

from cdc_indexer.model.version import AHEAD, VersionClock

SECOND = 1_000_000
NOON = 1_795_000_000 * SECOND


def durable(clock: VersionClock, now: int) -> None:
    bound = clock.wanted_bound(now)
    assert bound is not None
    clock.bounded(bound)


def test_numbers_grow_whatever_the_clock_does_and_never_pass_what_is_durable() -> None:
    clock = VersionClock()
    assert clock.draw(NOON) is None
    durable(clock, NOON)
    assert clock.draw(NOON) == NOON
    assert clock.draw(NOON) == NOON + 1
    assert clock.draw(NOON - 3600 * SECOND) == NOON + 2
    clock.saw(NOON + SECOND)
    assert clock.draw(NOON) == NOON + SECOND + 1
    clock.saw(NOON + 60 * SECOND)
    assert clock.draw(NOON) is None
    durable(clock, NOON)
    assert clock.draw(NOON) == NOON + 60 * SECOND + 1


def test_a_program_that_begins_anew_is_not_ahead_of_its_readings() -> None:
    """Else what it holds while it is frozen wins over what another process read since."""
    clock = VersionClock()
    durable(clock, NOON)
    assert clock.draw(NOON) == NOON
    assert clock.bound == NOON + AHEAD <= NOON + 2 * SECOND
    again = VersionClock(clock.bound)
    assert again.wait_seconds(NOON) == 2
    assert again.draw(NOON) is None
    assert again.draw(NOON + 2 * SECOND - 1) is None
    assert again.wanted_bound(NOON + 2 * SECOND - 1) is None, "killed again and again, it would climb"
    assert again.draw(NOON + 2 * SECOND) is None
    durable(again, NOON + 2 * SECOND)
    assert again.draw(NOON + 2 * SECOND) == NOON + 2 * SECOND + 1
    assert again.draw(NOON + 3 * SECOND) == NOON + 3 * SECOND


def test_that_the_clock_was_asked_for_before_it_was_measured_changes_nothing() -> None:
    """Until the database has said its own, it is this machine's, which may be ahead."""
    again = VersionClock(NOON + SECOND)
    assert again.wait_seconds(NOON + 60 * SECOND) == 0
    assert again.wait_seconds(NOON) == 1
    assert again.draw(NOON) is None


def test_after_a_clean_end_nobody_waits() -> None:
    clock = VersionClock()
    durable(clock, NOON)
    assert clock.draw(NOON) == NOON
    assert clock.end() == NOON
    assert clock.wanted_bound(NOON + 5 * SECOND) is None
    # A write that was under way.
    clock.bounded(NOON + 2 * SECOND)
    assert clock.draw(NOON + 1) is None
    again = VersionClock(NOON)
    assert again.wait_seconds(NOON + 1) == 0
    durable(again, NOON + 1)
    assert again.draw(NOON + 1) == NOON + 1


def test_nobody_waits_for_a_clock_that_went_back() -> None:
    again = VersionClock(NOON)
    durable(again, NOON)
    before = NOON - 3 * SECOND
    assert again.draw(before) == NOON + 1
    # Not later either, when the clock comes near.
    assert again.draw(NOON - SECOND) == NOON + 2


def test_a_disk_that_is_slower_than_the_bound_lies_ahead_lets_them_be_drawn() -> None:
    clock = VersionClock()
    now, drawn = NOON, [0]
    for _ in range(5):
        assert clock.draw(now) is None
        bound = clock.wanted_bound(now)
        assert bound is not None
        now += 10 * SECOND
        clock.bounded(bound)
        version = clock.draw(now)
        assert version is not None
        assert drawn[-1] < version <= clock.bound
        drawn.append(version)

"""Worlds in which nothing may be lost: all that ever failed, some fixed ones, some new ones."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from tests.simulation.course import Failure, play, play_seed
from tests.simulation.kept import kept_courses
from tests.simulation.real_disk import RealDisk
from tests.simulation.shrink import shrink, tell

#: Two minutes of fixed seeds on one core, in parts that run side by side.
PARTS = 8
SEEDS_IN_PART = 1400

#: New ones besides, but for CI: no change turns red by another's seed.
NEW_SECONDS = 15.0

KEPT = kept_courses(Path(__file__).with_name("seeds.txt"))


def report(failure: Failure) -> str:
    """The shortest course of events that fails in the same way."""
    found = f"seed {failure.seed}: {failure.what}\n" if failure.seed is not None else ""
    return found + tell(shrink(failure, budget=1500))


@pytest.mark.parametrize("kept", KEPT, ids=[kept.why for kept in KEPT])
def test_what_failed_once(kept: object) -> None:
    failure = play(kept.course)  # type: ignore[attr-defined]
    assert failure is None, report(failure)


@pytest.mark.parametrize("part", range(PARTS))
def test_fixed_seeds(part: int) -> None:
    for seed in range(part * SEEDS_IN_PART, (part + 1) * SEEDS_IN_PART):
        failure = play_seed(seed)
        assert failure is None, report(failure)


def test_with_the_real_state(tmp_path: Path) -> None:
    """What the file gives back is what was put there, over all processes of a world."""
    for seed in range(10_000, 10_060):
        directory = tmp_path / str(seed)
        disk = RealDisk(directory)
        failure = play_seed(seed, disk=disk)
        disk.close()
        assert failure is None, report(failure)


@pytest.mark.skipif("CI" in os.environ, reason="a change mustn't turn red by another's seed")
def test_new_seeds() -> None:
    first = random.SystemRandom().randrange(10**6, 10**9)
    print(f"new seeds from {first}")
    seed, ends_at = first, time.monotonic() + NEW_SECONDS
    while time.monotonic() < ends_at:
        failure = play_seed(seed)
        assert failure is None, report(failure)
        seed += 1


def test_a_seed_replays_to_the_letter() -> None:
    """Its course, played step by step, tells the same as the seed did."""
    for seed in (3, 5, 8):
        told: list[list[str]] = [[], []]
        failure = play_seed(seed, told[0], keep=True)
        assert failure is not None
        play(failure.course, told[1])
        # The course names its steps besides.
        assert told[0] == [line for line in told[1] if line.startswith(" ")]

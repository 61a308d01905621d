"""make simulate: many seeds, or one that is told as a course of events."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections import Counter

from tests.simulation.course import Course, play, play_seed
from tests.simulation.shrink import shrink, tell

#: So many worlds are played by one process before it is asked how they went, and said after so many.
_TOGETHER = 500
_TELL_EVERY = 10_000


def _play(seeds: range) -> tuple[int, list[tuple[int, str, str]], float]:
    """How many were played, those that failed (seed, kind, what), and how much CPU that took."""
    began = time.process_time()
    failures = [
        (seed, failure.kind, failure.what) for seed in seeds if (failure := play_seed(seed)) is not None
    ]
    return len(seeds), failures, time.process_time() - began


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, help="this one, cut down and told as a course")
    parser.add_argument("--course", help="a course as JSON, told")
    parser.add_argument("--stop", type=int, default=10, help="after so many failures")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes side by side")
    given = parser.parse_args()
    if given.course:
        trace: list[str] = []
        failure = play(Course.parse(json.loads(given.course)), trace)
        print("\n".join(trace))
        print(failure.what if failure else "nothing is broken")
        return 1 if failure else 0
    if given.seed is not None:
        failure = play_seed(given.seed)
        if failure is None:
            print("nothing is broken")
            return 0
        print(tell(shrink(failure)))
        return 1
    began = time.perf_counter()
    kinds: Counter[str] = Counter()
    first_of: dict[str, int] = {}
    worlds, cpu_seconds = 0, 0.0
    parts = [
        range(first, min(first + _TOGETHER, given.first + given.seeds))
        for first in range(given.first, given.first + given.seeds, _TOGETHER)
    ]
    with multiprocessing.Pool(given.jobs) as pool:
        for played, failures, seconds in pool.imap(_play, parts):
            worlds += played
            cpu_seconds += seconds
            for seed, kind, what in failures:
                kinds[kind] += 1
                first_of.setdefault(kind, seed)
                print(f"seed {seed}: {what}", flush=True)
            if kinds.total() >= given.stop:
                break
            if worlds % _TELL_EVERY == 0:
                print(f"{worlds:,} worlds", flush=True)
    seconds = time.perf_counter() - began
    print(
        f"{worlds:,} worlds in {seconds:.0f} s, {worlds / seconds * 60:,.0f} a minute; "
        f"{worlds / cpu_seconds * 60:,.0f} in a minute of CPU"
    )
    for kind, count in kinds.most_common():
        print(f"{count:6}  first with seed {first_of[kind]}: {kind}")
    return 1 if kinds else 0


if __name__ == "__main__":
    raise SystemExit(main())

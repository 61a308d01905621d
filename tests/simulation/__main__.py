"""make simulate: many seeds, or one that is told as a course of events."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter

from tests.simulation.course import Course, play, play_seed
from tests.simulation.shrink import shrink, tell


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, help="this one, cut down and told as a course")
    parser.add_argument("--course", help="a course as JSON, told")
    parser.add_argument("--stop", type=int, default=10, help="after so many failures")
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
    for seed in range(given.first, given.first + given.seeds):
        failure = play_seed(seed)
        if failure is not None:
            kinds[failure.kind] += 1
            first_of.setdefault(failure.kind, seed)
            print(f"seed {seed}: {failure.what}")
            if kinds.total() >= given.stop:
                break
    worlds = seed - given.first + 1
    seconds = time.perf_counter() - began
    print(f"{worlds} worlds in {seconds:.1f} s ({worlds / seconds * 60:.0f} a minute)")
    for kind, count in kinds.most_common():
        print(f"{count:6}  first with seed {first_of[kind]}: {kind}")
    return 1 if kinds else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""How strong the simulation is: each protection is taken out, and after how many seeds that is found."""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from tests.simulation import protections, protections_of_looks  # noqa: F401 - they register
from tests.simulation.course import play_seed
from tests.simulation.taken_out import PROTECTIONS

__all__ = ["mutated"]

#: So many seeds at most; one that isn't found by then is a hole in the simulation.
LIMIT = 20_000


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """The core without that protection."""
    before: list[tuple[Any, str, object]] = []

    def put(owner: object, attribute: str, value: object) -> None:
        before.append((owner, attribute, vars(owner)[attribute]))
        setattr(owner, attribute, value)

    PROTECTIONS[name](put)
    try:
        yield
    finally:
        for owner, attribute, value in reversed(before):
            setattr(owner, attribute, value)


# --- the table -------------------------------------------------------------------------------------------


def seeds_until_found(name: str, limit: int) -> tuple[int | None, str]:
    """After how many seeds the mutant is found, and by what."""
    with mutated(name):
        for seed in range(limit):
            failure = play_seed(seed)
            if failure is not None:
                return seed + 1, failure.what
    return None, ""


def _find(name: str, limit: int) -> tuple[str, int | None, str]:
    return name, *seeds_until_found(name, limit)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutants")
    parser.add_argument("--limit", type=int, default=LIMIT)
    parser.add_argument("--only", default="", help="those whose name holds this")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes side by side")
    given = parser.parse_args()
    holes = 0
    names = [name for name in PROTECTIONS if given.only in name]
    print("| taken out | found after seeds | by |\n| --- | ---: | --- |", flush=True)
    # As they are found, so that what was found isn't lost with the rest.
    with multiprocessing.Pool(given.jobs, maxtasksperchild=1) as pool:
        for name, seeds, what in pool.imap_unordered(partial(_find, limit=given.limit), names):
            holes += seeds is None
            said = f"{seeds:,}" if seeds else f"not in {given.limit:,}"
            print(f"| {name} | {said} | {what[:90]} |", flush=True)
    print(f"{len(names) - holes} of {len(names)} found")
    return 1 if holes else 0


if __name__ == "__main__":
    raise SystemExit(main())

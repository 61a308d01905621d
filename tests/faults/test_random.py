"""Random faults on both sides under load, and then the invariant; the same at length with `make soak MINUTES=30`.

CDC_INDEXER_TEST_SEED=12345 repeats a run's choices (not its timing).
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from tests.faults.case import Case, MakeCase
from tests.faults.proxy import Proxy
from tests.faults.storm import Storm, on_two_lines
from tests.pacs import Pacs
from tests.servers import Server


@pytest.fixture
def seed() -> int:
    return int(os.environ.get("CDC_INDEXER_TEST_SEED") or random.SystemRandom().randrange(1_000_000))


@pytest.fixture
def stormy(hurt_server: Server, make_case: MakeCase, proxied: Callable[[int], Proxy], seed: int) -> Storm:
    """A service between two lines, with patience for neither side."""
    case = make_case(Pacs.create(hurt_server), stream={"audit_seconds": 1}, delivery={"timeout_seconds": 3})
    database, index = proxied(hurt_server.port), proxied(case.receiver.port)
    on_two_lines(case, database, index)
    return Storm(case, database, index, random.Random(seed))


def rage(storm: Storm, seconds: float, seed: int) -> None:
    case: Case = storm.case
    print(f"CDC_INDEXER_TEST_SEED={seed} on {case.server.flavour}")
    case.start()
    try:
        with case.load(seed=seed, pause_seconds=0.01, renames=0.01) as load:
            storm.rage(seconds)
        case.loaded(load)
        # The last fault may have left the pauses between two tries at their longest.
        case.finish(120)
    finally:
        print(f"{len(storm.injected)} faults: {', '.join(storm.injected)}")
    case.pacs.destroy()


def test_random_faults(stormy: Storm, seed: int) -> None:
    rage(stormy, 30, seed)


@pytest.mark.soak
@pytest.mark.each_server
@pytest.mark.timeout(600)
def test_a_minute_of_random_faults(stormy: Storm, seed: int) -> None:
    rage(stormy, 60, seed)

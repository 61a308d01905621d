"""`make soak MINUTES=30`: idle, then five studies a second, then random faults; memory all the while.

A sixth of the time it is idle, a third it is the archive of a large hospital, and for the rest everything breaks.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator

import pytest

from tests.faults.case import Case, MakeCase
from tests.faults.proxy import Proxy
from tests.faults.storm import Storm, on_two_lines
from tests.faults.test_memory import now_mb
from tests.pacs import Pacs
from tests.servers import Server

MINUTES = float(os.environ.get("CDC_INDEXER_TEST_MINUTES") or 3)

#: Memory at the end of a part against that after its first fifth, in which caches fill.
GROWTH_MB = 4.0

_SAMPLES = 20


def watched(case: Case, what: str, seconds: float) -> Iterator[float]:
    """Looks at the service's memory again and again for so long, prints it, and fails when it keeps growing."""
    seen: list[float] = []
    for _ in range(_SAMPLES):
        time.sleep(seconds / _SAMPLES)
        seen.append(now_mb(case.indexer))
        yield seen[-1]
    early = max(seen[: _SAMPLES // 5])
    print(
        f"{what}, {seconds:.0f} s: {early:.1f} MB after a fifth, {seen[-1]:.1f} MB at the end,"
        f" {max(seen):.1f} MB at most; {len(case.receiver.accepted()):,} accepted so far",
        flush=True,
    )
    assert seen[-1] - early < GROWTH_MB, f"{what}: {', '.join(f'{one:.0f}' for one in seen)} MB"


@pytest.mark.soak
@pytest.mark.timeout(MINUTES * 60 + 600)
def test_soak(hurt_server: Server, make_case: MakeCase, proxied: Callable[[int], Proxy]) -> None:
    seed = int(os.environ.get("CDC_INDEXER_TEST_SEED") or random.SystemRandom().randrange(1_000_000))
    case = make_case(Pacs.create(hurt_server), stream={"audit_seconds": 5}, delivery={"timeout_seconds": 3})
    database, index = proxied(hurt_server.port), proxied(case.receiver.port)
    on_two_lines(case, database, index)
    print(f"\nCDC_INDEXER_TEST_SEED={seed}, {hurt_server.flavour} {hurt_server.version}, {MINUTES:g} minutes")
    case.start()
    case.store(20)
    case.arrives(case.committed)
    for _ in watched(case, "idle", MINUTES * 10):
        pass
    with case.load(seed=seed, pause_seconds=0.12) as calm:  # 60 % of what it does are new studies
        for _ in watched(case, "5 studies/s", MINUTES * 20):
            pass
    case.loaded(calm)
    storm = Storm(case, database, index, random.Random(seed))
    with case.load(seed=seed + 1, pause_seconds=0.05) as load:
        storm.rage(MINUTES * 30)
    case.loaded(load)
    case.finish(180)
    print(f"random faults, {MINUTES * 30:.0f} s: {len(storm.injected)} injected; nothing lost", flush=True)
    case.pacs.destroy()

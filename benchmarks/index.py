"""The whole way: archive, binary log, `run`, reference index with its embedded store; and a search while it takes them."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from benchmarks import region
from benchmarks.measurements import Figures, store
from benchmarks.subjects import Ours
from tests.pacs import Pacs

_CENTER = "000"
_BETWEEN_SECONDS = 0.05


def measure(pacs: Pacs, directory: Path, count: int, held: int, batch_size: int | str) -> Figures:
    """``count`` studies wait in the log when `run` is started; the index holds ``held`` of the region already."""
    with region.indexes(1, "central.sqlite", directory / "index") as (index,):
        asyncio.run(_fill(index.port, held))
        subject = Ours(
            directory / "ours", pacs, f"http://127.0.0.1:{index.port}/api/v1/register", batch_size=batch_size
        )
        config_path = subject.directory / "config.json"
        config = {**json.loads(config_path.read_text()), "key": f"key-of-centre-{_CENTER}"}
        config_path.write_text(json.dumps(config))
        subject.prepare()
        store(pacs, count, one_transaction=True)
        own_before, took = region.cpu_seconds([index], None), list[float]()
        done = threading.Event()
        searching = threading.Thread(target=lambda: took.extend(asyncio.run(_search(index.port, done))))
        first = last = 0.0
        subject.start()
        with closing(sqlite3.connect(f"file:{directory}/index/central.sqlite?mode=ro", uri=True)) as db:
            arrived = _counting(db)
            deadline = time.monotonic() + 900
            while (there := arrived()) < count:
                if there and not first:
                    first, seen = time.monotonic(), there
                    searching.start()
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{there} of {count} arrived")
                usage = subject.usage()
                time.sleep(0.02)
            last = time.monotonic()
        own = region.cpu_seconds([index], None) - own_before
        done.set()
        searching.join()
        usage = subject.usage()
        subject.stop()
    quantiles = statistics.quantiles(took, n=100) if len(took) > 1 else [took[0]] * 99
    return {
        "studies/s": (count - seen) / max(last - first, 0.001),
        "CPU s per 10,000, cdc_indexer": usage.cpu_seconds / count * 10_000,
        "CPU s per 10,000, index": own / count * 10_000,
        "search p50, ms": quantiles[49],
        "search p99, ms": quantiles[98],
        "searches": float(len(took)),
    }


def _counting(db: sqlite3.Connection) -> Callable[[], int]:
    """How many have come since."""
    (before,) = db.execute("SELECT coalesce(max(id), 0) FROM studies").fetchone()

    def arrived() -> int:
        (now,) = db.execute("SELECT coalesce(max(id), 0) FROM studies").fetchone()
        return int(now - before)

    return arrived


async def _fill(port: int, held: int) -> None:
    sender = region.Sender(1_000_000, 100)
    async with region.Client(port) as client:
        sent = 0
        while sent < held:
            sent += await sender.send(client)


async def _search(port: int, done: threading.Event) -> list[float]:
    """The milliseconds of each, one at a time, with a rest between them."""
    rng = random.Random(7)
    took: list[float] = []
    async with region.Client(port) as client:
        while not done.is_set() or not took:
            took.append(await region.answer_ms(client, rng.choice([*region.SEARCHES.values()])(rng)))
            await asyncio.sleep(_BETWEEN_SECONDS)
    return took

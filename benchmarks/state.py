"""What the durable state costs: its size for many studies with random UIDs, and a commit of eight results beside them."""

from __future__ import annotations

import os
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.measurements import Figures
from cdc_indexer.model.changes import Changes
from cdc_indexer.model.ledger import Entry
from cdc_indexer.state.store import Store
from cdc_indexer.state.writer import TIDY_ENTRIES

_RESULTS = 8
_COMMITS = 1_500


def measure(state_dir: Path, count: int) -> Figures:
    """Fills a ledger with ``count`` studies, and commits to it as `run` does; milliseconds."""
    chance = random.Random(count)
    store = Store(state_dir)
    try:
        began = time.perf_counter()
        _fill(store, chance, count)
        filled = time.perf_counter() - began
        some = [
            entry for _ in range(500) for entry in store.by_pk(chance.randrange(count - 1), None, 10)[:10]
        ]
    finally:
        store.close()
    size = sum(path.stat().st_size for path in state_dir.iterdir())
    began = time.perf_counter()
    store = Store(state_dir)
    try:
        store.load()
        opened = time.perf_counter() - began
        began = time.perf_counter()
        pages = sum(1 for _ in _pages(store))
        swept = time.perf_counter() - began
        new = _commits(store, lambda n: [_entry(chance, count + n * _RESULTS + i) for i in range(_RESULTS)])
        log = (state_dir / "state.sqlite-wal").stat().st_size
        again = _commits(store, lambda _: [_changed(one) for one in chance.sample(some, _RESULTS)])
        empty = _commits(store, lambda _: [])
    finally:
        store.close()
    return {
        "MB": size / 1e6,
        "log, MB": log / 1e6,
        "open, ms": opened * 1e3,
        "read all by pages of 500, s": swept if pages else 0.0,
        "fill, studies/s": count / filled,
        **_spread("8 new studies", new),
        **_spread("8 known studies", again),
        **_spread("position only", empty),
        **_spread("append + fdatasync", _floor(state_dir / "floor")),
    }


def fill(state_dir: Path, count: int) -> None:
    """A ledger with so many studies, none of which the archive has."""
    store = Store(state_dir)
    try:
        _fill(store, random.Random(count), count)
    finally:
        store.close()


def _fill(store: Store, chance: random.Random, count: int) -> None:
    for start in range(0, count, 2_000):
        entries = [_entry(chance, pk) for pk in range(start + 1, min(start + 2_000, count) + 1)]
        store.apply(Changes(ledger={entry.study_iuid: entry for entry in entries}))
        store.tidy()


def _entry(chance: random.Random, pk: int) -> Entry:
    uid = f"1.2.{chance.randrange(10**60):060d}"
    return Entry(
        uid, pk, 1_795_638_845_123_456, chance.randbytes(16), series=3, instances=chance.randrange(2_000)
    )


def _changed(entry: Entry) -> Entry:
    return Entry(entry.study_iuid, entry.study_pk, entry.version + 1, bytes(16), series=3, instances=700)


def _pages(store: Store) -> Iterator[Sequence[Entry]]:
    after = -1
    while page := store.by_pk(after, None, 500):
        yield page
        after = page[-1].study_pk


def _commits(store: Store, results: Callable[[int], Sequence[Entry]]) -> list[float]:
    """The seconds of each, while another thread moves the log into the file, as that of `run` does."""
    done, tidy = threading.Event(), threading.Event()

    def upkeep() -> None:
        while not done.is_set():
            tidy.wait()
            tidy.clear()
            store.tidy()

    thread = threading.Thread(target=upkeep)
    thread.start()
    seconds, untidy = [], 0
    try:
        for number in range(_COMMITS):
            changes = Changes(
                meta={
                    "position": {
                        "file": "bin.000007",
                        "offset": number,
                        "file_created": 1,
                        "gtid_set": "0-1-1",
                    }
                },
                settled={"2026-03-01T12:00": f"[{2**63},{number}]"},
                ledger={entry.study_iuid: entry for entry in results(number)},
            )
            began = time.perf_counter()
            store.apply(changes)
            seconds.append(time.perf_counter() - began)
            untidy += len(changes.ledger) + 1
            if untidy >= TIDY_ENTRIES:
                untidy = 0
                tidy.set()
    finally:
        done.set()
        tidy.set()
        thread.join()
    return seconds


def _floor(path: Path) -> list[float]:
    """What this disk takes for 200 bytes at the least, in the same minute."""
    seconds = []
    with path.open("w+b", buffering=0) as file:
        file.write(bytes(1_000_000))
        os.fsync(file.fileno())
        file.seek(0)
        for _ in range(400):
            began = time.perf_counter()
            file.write(bytes(200))
            os.fdatasync(file.fileno())
            seconds.append(time.perf_counter() - began)
    path.unlink()
    return seconds


def _spread(what: str, seconds: list[float]) -> Figures:
    ordered = sorted(seconds)
    return {
        f"{what}, ms": statistics.median(ordered) * 1e3,
        f"{what}, p99 ms": ordered[len(ordered) * 99 // 100] * 1e3,
        f"{what}, max ms": ordered[-1] * 1e3,
    }

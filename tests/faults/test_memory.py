"""Memory, state and the archive's server, whatever the backlog and however long the central index is away."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.beside import beside
from tests.faults.case import Case, MakeCase
from tests.indexer import Indexer, wait_until
from tests.pacs import Pacs
from tests.servers import Server

#: What the README says; importing everything takes 44 MB, ten thousand studies that await verification most of the rest.
PEAK_MB = 70
#: Once that room is filled.
GROWTH_MB = 6
SETTLED_KB = 64
#: The write-ahead log: twice what makes a commit wait for a checkpoint.
LOG_KB = 8192

_ROWS_AT_A_TIME = 5_000


def peak_mb(indexer: Indexer) -> float:
    """The most memory that the running service has had."""
    return _status(indexer, "VmHWM")


def now_mb(indexer: Indexer) -> float:
    return _status(indexer, "VmRSS")


def _status(indexer: Indexer, name: str) -> float:
    assert indexer.process is not None
    text = Path(f"/proc/{indexer.process.pid}/status").read_text()
    return int(text.partition(f"{name}:")[2].split()[0]) / 1024


def variable(server: Server, name: str) -> int:
    ((_, value),) = server.execute(f"SHOW GLOBAL STATUS LIKE '{name}'")
    return int(value)


@contextlib.contextmanager
def largest_state(case: Case) -> Iterator[list[int]]:
    """The largest sizes in bytes of the settled intervals and of the write-ahead log, as long as the block takes."""
    sizes = [0, 0]
    path = case.indexer.state_dir / "state.sqlite"

    def watch(ended: threading.Event) -> None:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            while not ended.wait(0.2):
                ((settled,),) = db.execute("SELECT ifnull(sum(length(value)), 0) FROM settled")
                sizes[0] = max(sizes[0], settled)
                sizes[1] = max(sizes[1], path.with_name("state.sqlite-wal").stat().st_size)

    with beside(watch):
        yield sizes


def many_rows(case: Case, count: int, seconds: float) -> None:
    """So many rows as the archive commits them, from two sessions, and what they cost us."""
    first = case.indexer
    first.start()
    case.says("caught up")
    began = time.monotonic()
    stored: list[str] = []

    def store() -> None:
        with contextlib.closing(Pacs(case.server, case.pacs.name)) as archive:
            for _ in range(count // 2 // _ROWS_AT_A_TIME):
                stored.extend(archive.insert_outbox_rows(_ROWS_AT_A_TIME))

    threads = [threading.Thread(target=store) for _ in range(2)]
    with largest_state(case) as sizes:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        case.committed += stored
        assert len(stored) == count
        # Everything that may wait does by then, if there is enough of it.
        wait_until(lambda: len(case.accepted_uids) >= count // 5, seconds, "a fifth of the rows")
        early = peak_mb(first)
        wait_until(lambda: len(case.accepted_uids) >= count, seconds, "all rows")
    taken = time.monotonic() - began
    peak = peak_mb(first)
    print(
        f"{case.server.version}: {count:,} rows in {taken:.0f} s, peak {early:.0f} MB after a fifth, {peak:.0f} MB"
        f" at the end, settled rows in {sizes[0] / 1024:.0f} KB, log {sizes[1] / 1024:.0f} KB"
    )
    assert peak < PEAK_MB
    assert count < 500_000 or peak - early < GROWTH_MB
    assert sizes[0] < SETTLED_KB * 1024
    assert sizes[1] < LOG_KB * 1024
    assert taken < seconds
    assert first.stop() == 0
    times = [uid for entry in case.receiver.accepted() for uid in entry.study_iuids]
    assert len(times) == len(set(times)) == count


def test_many_rows_within_minutes(hurt_server: Server, make_case: MakeCase) -> None:
    """None of them can be forgotten before ten minutes are over."""
    case = make_case(Pacs.create(hurt_server), delivery={"batch_size": 200, "settle_seconds": 5})
    many_rows(case, 40_000, 120)
    case.pacs.destroy()


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_million_rows_within_ten_minutes(hurt_server: Server, make_case: MakeCase) -> None:
    case = make_case(Pacs.create(hurt_server), delivery={"batch_size": 500, "settle_seconds": 5})
    many_rows(case, 1_000_000, 600)
    case.pacs.destroy()


def test_the_index_is_away_for_long(hurt_server: Server, make_case: MakeCase) -> None:
    """More than fits into any queue waits; nothing grows, and the archive's server is left alone meanwhile.

    FACTS 1.10: the server ends a reader that doesn't read for net_write_timeout, here after one second instead of sixty.
    """
    pacs = Pacs.create(hurt_server)
    before = hurt_server.execute("SELECT @@GLOBAL.net_write_timeout")[0][0]
    hurt_server.execute("SET GLOBAL net_write_timeout = 1")
    case = make_case(pacs, delivery={"batch_size": 200}, stream={"audit_seconds": 1})
    try:
        case.start()
        case.store(20)
        case.arrives(case.committed)
        case.receiver.refuse()
        case.fault()
        stored = pacs.insert_outbox_rows(30_000)
        time.sleep(2)
        early_mb, connections = now_mb(case.indexer), variable(hurt_server, "Connections")
        asked = variable(hurt_server, "Questions")
        time.sleep(8)
        # Our own two: what this test asks.
        connections = variable(hurt_server, "Connections") - connections - 2
        asked = variable(hurt_server, "Questions") - asked
        grown = now_mb(case.indexer) - early_mb
        transactions = hurt_server.execute(
            "SELECT COUNT(*) FROM information_schema.INNODB_TRX WHERE trx_started < NOW() - INTERVAL 2 SECOND"
        )
        print(
            f"{hurt_server.version}: 8 s without an index: {connections} new connections, {asked} statements,"
            f" memory {early_mb:.0f} MB and {grown:+.1f}"
        )
        assert connections <= 3
        assert asked < 60
        assert grown < 4
        assert transactions == [(0,)], "a transaction of ours is open for as long"
        case.receiver.listen()
        case.committed += stored
        wait_until(lambda: set(stored) <= set(case.accepted_uids), 90, "the backlog")
        assert peak_mb(case.indexer) < PEAK_MB
        assert case.indexer.stop() == 0
        times = [uid for entry in case.receiver.accepted() for uid in entry.study_iuids]
        assert len(times) == len(set(times))
    finally:
        hurt_server.execute(f"SET GLOBAL net_write_timeout = {before}")
    pacs.destroy()

"""A binary log that nobody can decode is no reason to be slow: the table is read at each such transaction."""

from __future__ import annotations

import contextlib
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from tests.indexer import Indexer, wait_until
from tests.pacs import Pacs
from tests.receiver import Receiver
from tests.servers import Server

_STUDIES = 1_500


def _compress(server: Server, on: bool) -> None:
    """Everything that is committed from now on by new sessions."""
    value = "ON" if on else "OFF"
    if server.is_mariadb:
        server.execute(f"SET GLOBAL log_bin_compress = {value}")
        server.execute("SET GLOBAL log_bin_compress_min_len = 10")
    else:
        server.execute(f"SET GLOBAL binlog_transaction_compression = {value}")


def test_delay_and_rate_with_compression(
    new_server: Callable[..., Server], receiver: Receiver, tmp_path: Path
) -> None:
    server = new_server()
    pacs = Pacs.create(server)
    indexer = Indexer(tmp_path / "indexer", pacs, receiver.url)
    per_second: dict[bool, list[float]] = {False: [], True: []}
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        for number in range(4):
            compressed = number % 2 == 1
            _compress(server, compressed)
            per_second[compressed].append(_catch_up_rate(server, pacs, receiver, indexer))
        _compress(server, True)
        delays = _delays(server, pacs, receiver)
    pacs.destroy()
    rates = {mode: statistics.median(some) for mode, some in per_second.items()}
    print(
        f"{server.version}: plain {rates[False]:.0f}/s, compressed {rates[True]:.0f}/s, "
        f"median delay {statistics.median(delays) * 1000:.1f} ms"
    )
    # Measured without load: 3 to 6 ms.
    assert statistics.median(delays) < 0.05
    assert rates[True] > rates[False] / 2


def _catch_up_rate(server: Server, pacs: Pacs, receiver: Receiver, indexer: Indexer) -> float:
    """Studies a second, from a log of as many transactions that the service finds."""
    before = len(receiver.accepted())
    assert indexer.process is not None
    indexer.process.send_signal(signal.SIGSTOP)
    # A session of its own: the settings count for new ones.
    with contextlib.closing(Pacs(server, pacs.name)) as archive:
        archive.insert_outbox_rows(_STUDIES, one_transaction=False)
    indexer.process.send_signal(signal.SIGCONT)
    began = time.monotonic()
    wait_until(lambda: len(receiver.accepted()) >= before + _STUDIES, 60, "all studies")
    taken = time.monotonic() - began
    assert len(receiver.accepted()) == before + _STUDIES
    return _STUDIES / taken


def _delays(server: Server, pacs: Pacs, receiver: Receiver) -> list[float]:
    committed_at: dict[str, float] = {}
    with contextlib.closing(Pacs(server, pacs.name)) as archive:
        for _ in range(100):
            (study_iuid,) = archive.insert_outbox_rows(1)
            committed_at[study_iuid] = time.time()
            time.sleep(0.02)
    wait_until(lambda: committed_at.keys() <= set(receiver.study_iuids()), what="the studies")
    arrived_at = {entry.json["study_iuid"]: entry.time for entry in receiver.accepted()}
    return [arrived_at[study_iuid] - moment for study_iuid, moment in committed_at.items()]

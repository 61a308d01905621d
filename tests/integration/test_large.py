"""`initial` on a million studies, while the archive goes on storing: no long query, no lock that anybody waits for."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.indexer import Indexer
from tests.pacs import ADD_INDEXER, Pacs
from tests.receiver import Receiver
from tests.servers import Server

_STUDIES = 1_000_000


def _fill(pacs: Pacs) -> None:
    """A patient for ten studies each, everything counted."""
    numbers = " CROSS JOIN ".join(
        f"(SELECT 0 n UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL SELECT 5"
        f" UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9) d{i}"
        for i in range(4)
    )
    count = f"SELECT d0.n + 10 * d1.n + 100 * d2.n + 1000 * d3.n AS n FROM {numbers}"
    for start in range(0, _STUDIES // 10, 10_000):
        pacs.execute(
            f"INSERT INTO patient (pk, pat_id, pat_name)"
            f" SELECT {start} + n + 1, CONCAT({start} + n, '-K'), 'NÚÑEZ^MARÍA' FROM ({count}) numbers"
        )
    for start in range(0, _STUDIES, 10_000):
        pacs.execute(
            f"INSERT INTO study (pk, patient_fk, study_iuid, study_datetime, study_desc, mods_in_study, num_series,"
            f" num_instances, availability, study_status)"
            f" SELECT {start} + n + 1, ({start} + n) DIV 10 + 1, CONCAT('1.2.840.', {start} + n), '2024-05-06 07:08:09',"
            f" 'TÓRAX', 'CT', 3, 412, 0, 0 FROM ({count}) numbers"
        )


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_initial_on_a_million_studies(
    new_server: Callable[..., Server], receiver: Receiver, tmp_path: Path
) -> None:
    server = new_server(
        "--innodb-buffer-pool-size=512M", "--innodb-flush-log-at-trx-commit=0", "--sync-binlog=0"
    )
    pacs = Pacs.create_bare(server)
    _fill(pacs)
    server.run_script(ADD_INDEXER.read_text(), pacs.name)
    pacs.grant()
    for setting in ("log_output = 'TABLE'", "long_query_time = 0.1", "slow_query_log = 1"):
        server.execute(f"SET GLOBAL {setting}")
    indexer = Indexer(tmp_path / "indexer", pacs, receiver.url, delivery={"batch_size": 500})
    waits_before = _row_lock_waits(server)
    ended = threading.Event()
    stored: list[float] = []

    def store() -> None:
        """The archive in the meantime."""
        archive = Pacs(server, pacs.name)
        while not ended.wait(0.05):
            began = time.monotonic()
            pk = archive.store_study()
            archive.update_counts(pk, 1, 1, "CT")
            stored.append(time.monotonic() - began)
        archive.close()

    thread = threading.Thread(target=store)
    thread.start()
    began = time.monotonic()
    try:
        done = indexer.run("initial", seconds=1500)
    finally:
        ended.set()
        thread.join()
    taken = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    sent = set(receiver.study_iuids())
    assert sent >= {f"1.2.840.{number}" for number in range(_STUDIES)}
    slow = server.execute(
        "SELECT query_time, CONVERT(sql_text USING utf8mb4) FROM mysql.slow_log WHERE user_host LIKE %s",
        ("%indexer%",),
    )
    waits = _row_lock_waits(server) - waits_before
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(
        f"{server.version}: {_STUDIES / taken:,.0f} studies/s, {len(slow)} queries over 100 ms, {waits} lock waits,"
        f" peak memory of a child {peak_mb:.0f} MB, the archive stored {len(stored)},"
        f" the slowest {max(stored) * 1000:.0f} ms"
    )
    assert [str(text)[:200] for _, text in slow] == []
    assert waits == 0


def _row_lock_waits(server: Server) -> int:
    ((_, value),) = server.execute("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_waits'")
    return int(value)

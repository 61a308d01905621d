"""What goes behind live studies: a sweep of the whole view without its rests, and an `initial` that `run` feeds."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from benchmarks.measurements import INSERT, AnyReceiver, Figures
from benchmarks.subjects import Ours
from tests.pacs import Pacs, new_uid
from tests.servers import Server

_ADD = Path(__file__).resolve().parent.parent / "extras/add_indexer.sql"
_AT_ONCE = 20_000
_PATIENTS = (
    "INSERT IGNORE INTO patient (pk, pat_id, pat_name) SELECT seq, CONCAT(seq + 1000000, '-K'), CONCAT('PEÑA^JOSÉ ', seq)"
    " FROM seq_1_to_100000000 WHERE seq BETWEEN %s AND %s"
)
_STUDIES = (
    "INSERT INTO study (patient_fk, study_iuid, study_datetime, study_desc, mods_in_study, num_series, num_instances,"
    " availability, study_status) SELECT 1 + seq DIV 2, CONCAT('2.25.', CONV(LEFT(SHA2(seq, 256), 16), 16, 10), '.', seq),"
    " '2024-05-06 07:08:09', 'TÓRAX', 'CT', 3, 412, 0, 0 FROM seq_1_to_100000000 WHERE seq BETWEEN %s AND %s"
)
_LIVE = 250


def measure(directory: Path, server: Server, receiver: AnyReceiver, count: int) -> Figures:
    """On a MariaDB. Seconds, milliseconds, megabytes."""
    pacs = Pacs.create_bare(server)
    try:
        fill(pacs, count)
        server.run_script(_ADD.read_text(), pacs.name)
        pacs.grant()
        return _sweep(Ours(directory, pacs, f"{receiver.url}/near"), pacs, receiver, count)
    finally:
        for setting in ("slow_query_log = 0", "long_query_time = 10", "log_output = 'FILE'"):
            server.execute(f"SET GLOBAL {setting}")
        pacs.destroy()


def fed(directory: Path, server: Server, receiver: AnyReceiver, count: int) -> Figures:
    """`initial` beside a `run`, which sends so many studies behind the live ones; on a MariaDB."""
    pacs = Pacs.create_bare(server)
    subject = Ours(directory, pacs, f"{receiver.url}/near")
    try:
        fill(pacs, count)
        server.run_script(_ADD.read_text(), pacs.name)
        pacs.grant()
        subject.start()
        subject.caught_up()
        quiet = _delays(pacs, receiver, lambda sent: sent < _LIVE)
        began = time.monotonic()
        with subprocess.Popen(
            [*subject.command(), "initial"], cwd=subject.directory, stdout=subprocess.DEVNULL
        ) as feeding:
            meanwhile = _delays(pacs, receiver, lambda sent: feeding.poll() is None)
        took = time.monotonic() - began
        if feeding.returncode:
            raise RuntimeError("initial failed")
    finally:
        subject.stop()
        pacs.destroy()
    return {
        "fed, studies/s": count / took,
        "live p50 without, ms": quiet[0],
        "live p50 meanwhile, ms": meanwhile[0],
        "live p99 without, ms": quiet[1],
        "live p99 meanwhile, ms": meanwhile[1],
    }


def fill(pacs: Pacs, count: int) -> None:
    """Studies, two of each patient."""
    for first in range(1, count + 1, _AT_ONCE):
        last = min(first + _AT_ONCE - 1, count)
        pacs.execute(_PATIENTS, (first // 2 + 1, last // 2 + 1))
        pacs.execute(_STUDIES, (first, last))


def _sweep(subject: Ours, pacs: Pacs, receiver: AnyReceiver, count: int) -> Figures:
    config_path = subject.directory / "config.json"
    config_path.write_text(
        json.dumps({**json.loads(config_path.read_text()), "reconcile": {"studies_per_second": 100_000}})
    )
    subject.environment = {"CDC_INDEXER_TEST_REST_SECONDS": "0"}
    began = time.monotonic()
    subject.start("initial", "--already-sent")
    subject.wait()
    adopted = time.monotonic() - began
    # Before its sessions begin. Whatever it asks from now on is in the log.
    for setting in ("log_output = 'TABLE'", "long_query_time = 0", "slow_query_log = 1"):
        pacs.server.execute(f"SET GLOBAL {setting}")
    subject.start()
    subject.caught_up()
    try:
        quiet = _delays(pacs, receiver, lambda sent: sent < _LIVE)
        before = subject.usage()
        command = [*subject.command(), "reconcile", "--json"]
        with subprocess.Popen(command, cwd=subject.directory, stdout=subprocess.PIPE) as asking:
            meanwhile = _delays(pacs, receiver, lambda sent: asking.poll() is None)
            assert asking.stdout is not None
            result = json.loads(asking.stdout.read())
        after = subject.usage()
    finally:
        subject.stop()
    pacs.server.execute("SET GLOBAL slow_query_log = 0")
    if result["compared"] < count or result["missing"] or result["stale"]:
        raise RuntimeError(f"the sweep found what isn't there: {result}")
    ((longest,),) = pacs.server.execute(
        "SELECT MAX(TIME_TO_SEC(query_time)) FROM mysql.slow_log WHERE db = %s AND user_host LIKE %s"
        " AND sql_text LIKE '%%indexer_study%%'",
        (pacs.name, f"{pacs.user}%"),
    )
    return {
        "adopt, studies/s": count / adopted,
        "sweep, s": result["seconds"],
        "sweep, s for 1,000,000": result["seconds"] / result["compared"] * 1e6,
        "CPU s for 1,000,000": (after.cpu_seconds - before.cpu_seconds) / result["compared"] * 1e6,
        "longest query, ms": float(longest or 0) * 1e3,
        "peak MB before": before.peak_mb,
        "peak MB after": after.peak_mb,
        "live p50 without, ms": quiet[0],
        "live p50 meanwhile, ms": meanwhile[0],
        "live p99 without, ms": quiet[1],
        "live p99 meanwhile, ms": meanwhile[1],
    }


def _delays(pacs: Pacs, receiver: AnyReceiver, more: Callable[[int], bool]) -> tuple[float, float]:
    """p50 and p99 of commit to arrival, a study each 20 ms for as long as ``more`` says."""
    receiver.clear()
    committed_at: dict[str, float] = {}
    with closing(pacs.connect(autocommit=False)) as connection, connection.cursor() as cursor:
        while more(len(committed_at)) or len(committed_at) < 50:
            study_iuid = new_uid()
            cursor.execute(INSERT, (1, study_iuid))
            committed_at[study_iuid] = time.time()
            connection.commit()
            time.sleep(0.02)
    deadline = time.monotonic() + 60
    delays: list[float] = []
    while len(delays) < len(committed_at):
        if time.monotonic() > deadline:
            raise RuntimeError("a live study didn't arrive")
        time.sleep(0.2)
        delays = [
            max(0.0, (arrival.time + 0.0005 - committed_at[arrival.study_iuid]) * 1000)
            for arrival in receiver.arrivals()
            if arrival.study_iuid in committed_at
        ]
    quantiles = statistics.quantiles(delays, n=100)
    return quantiles[49], quantiles[98]

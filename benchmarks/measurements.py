"""The measurements: each runs one subject once on one archive, and gives figures by name."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

from benchmarks.receiver import Fallback, Receiver
from benchmarks.subjects import Before, Ours, PlainScript, Subject, Zongji
from cdc_indexer.source.binlog import BinlogReader, Rows
from tests.pacs import Pacs, new_uid

Figures: TypeAlias = "dict[str, float]"
AnyReceiver: TypeAlias = "Receiver | Fallback"

_PATIENCE_SECONDS = 900.0
INSERT = (
    "INSERT INTO study (patient_fk, study_iuid, study_datetime, study_desc, mods_in_study, num_series, num_instances,"
    " availability, study_status) VALUES (%s, %s, '2024-05-06 07:08:09', 'TÓRAX', 'CT', 3, 412, 0, 0)"
)


def _wait(condition: Callable[[], bool], subject: Subject) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        subject.usage()
        if time.monotonic() > deadline:
            raise RuntimeError(f"{subject.name} didn't finish within {_PATIENCE_SECONDS:.0f} s")
        time.sleep(0.05)


def store(pacs: Pacs, count: int, *, one_transaction: bool) -> list[str]:
    """Studies as an archive's triggers record them: a row of study and one of study_service for each."""
    if one_transaction:
        with pacs.transaction():
            return pacs.store_studies(count)
    patient_pk = pacs.add_patient("26267267-K", "PEÑA^JOSÉ")
    study_iuids = [new_uid() for _ in range(count)]
    with closing(pacs.connect()) as connection, connection.cursor() as cursor:
        for study_iuid in study_iuids:
            cursor.execute(INSERT, (patient_pk, study_iuid))
    return study_iuids


def delay(
    make: Callable[[str], Subject], pacs: Pacs, receiver: AnyReceiver, count: int, *, path: str = "/near"
) -> tuple[Figures, list[float]]:
    """From just before COMMIT to the arrival, a study each 20 ms; also all the delays, in ms.

    What COMMIT itself takes is said beside it: nobody can have the study much before the server has written it.
    """
    subject = make(path)
    subject.prepare()
    subject.start()
    patient_pk = pacs.add_patient("26267267-K", "PEÑA^JOSÉ")
    # Until the first arrives it isn't connected.
    receiver.clear()
    store(pacs, 1, one_transaction=False)
    _wait(lambda: receiver.count() >= 1, subject)
    receiver.clear()
    before, began = subject.usage(), time.monotonic()
    committed_at: dict[str, float] = {}
    committing: list[float] = []
    with closing(pacs.connect(autocommit=False)) as connection, connection.cursor() as cursor:
        for _ in range(count):
            study_iuid = new_uid()
            cursor.execute(INSERT, (patient_pk, study_iuid))
            committed_at[study_iuid] = time.time()
            connection.commit()
            committing.append((time.time() - committed_at[study_iuid]) * 1000)
            time.sleep(0.02)
    _wait(lambda: receiver.count() >= count, subject)
    cpu_percent = (subject.usage().cpu_seconds - before.cpu_seconds) / (time.monotonic() - began) * 100
    subject.stop()
    delays = sorted(
        # nginx cuts the moment to milliseconds.
        max(0.0, (arrival.time + 0.0005 - committed_at[arrival.study_iuid]) * 1000)
        for arrival in receiver.arrivals()
    )
    quantiles = statistics.quantiles(delays, n=100)
    return {
        "delay p50, ms": quantiles[49],
        "delay p99, ms": quantiles[98],
        "COMMIT itself p50, ms": statistics.median(committing),
        "CPU, % of a core": cpu_percent,
    }, delays


def backlog(
    make: Callable[[str], Subject],
    pacs: Pacs,
    receiver: AnyReceiver,
    count: int,
    *,
    one_transaction: bool,
    path: str = "/near",
    prepared: Callable[[Path], None] = lambda directory: None,
) -> Figures:
    """So many studies wait in the log when it is started. ``prepared`` is given its directory before that."""
    subject = make(path)
    subject.prepare()
    prepared(subject.directory)
    study_iuids = store(pacs, count, one_transaction=one_transaction)
    receiver.clear()
    started_at = time.time()
    subject.start()
    _wait(lambda: receiver.count() >= count, subject)
    usage = subject.usage()
    subject.stop()
    arrivals = receiver.arrivals()
    if sorted(sent.study_iuid for sent in arrivals) != sorted(study_iuids):
        raise RuntimeError(f"{subject.name} didn't send each study once")
    taken = arrivals[-1].time - arrivals[0].time
    return {
        "studies/s": count / max(taken, 0.001),
        "CPU s per 10,000": usage.cpu_seconds / count * 10_000,
        "peak MB": usage.peak_mb,
        "start to first POST, s": arrivals[0].time - started_at,
    }


def initial(
    make: Callable[[str], Subject], pacs: Pacs, receiver: AnyReceiver, *, path: str = "/near"
) -> Figures:
    """All that the archive holds; ours only."""
    subject = make(path)
    receiver.clear()
    subject.start("initial")
    usage = subject.wait()
    arrivals = receiver.arrivals()
    ((count,),) = pacs.execute("SELECT COUNT(*) FROM study")
    if len({arrival.study_iuid for arrival in arrivals}) != count or len(arrivals) != count:
        raise RuntimeError("initial didn't send each study once")
    return {
        "studies/s": count / max(arrivals[-1].time - arrivals[0].time, 0.001),
        "CPU s per 10,000": usage.cpu_seconds / count * 10_000,
        "peak MB": usage.peak_mb,
    }


def reading_over_tcp(pacs: Pacs, count: int, connect: Callable[[], BinlogReader]) -> Figures:
    """Our reader alone, over TCP, in this process; statements of 1,000 rows. Stalls would show as wall time without CPU
    time, here or in the server (FACTS 1.11: 40 ms an event)."""
    pacs.insert_outbox_rows(count)
    reader = connect()
    began, cpu = time.perf_counter(), time.thread_time()
    read = 0
    longest, last = 0.0, began
    for event in reader:
        now = time.perf_counter()
        if read:
            longest = max(longest, now - last)
        last = now
        if isinstance(event, Rows):
            read += len(event.rows)
            if read >= count:
                break
    wall, cpu = time.perf_counter() - began, time.thread_time() - cpu
    reader.close()
    return {"rows/s": read / wall, "wall / CPU time": wall / cpu, "longest wait, ms": longest * 1000}


def idle(make: Callable[[str], Subject], pacs: Pacs, receiver: AnyReceiver, seconds: float) -> Figures:
    """Nothing happens; percent of a core."""
    subject = make("/near")
    subject.prepare()
    subject.start()
    receiver.clear()
    store(pacs, 1, one_transaction=False)
    _wait(lambda: receiver.count() >= 1, subject)
    # Until the study is verified, too.
    time.sleep(7)
    before = subject.running_seconds()
    time.sleep(seconds)
    used = subject.running_seconds() - before
    subject.stop()
    return {"CPU, % of a core": used / seconds * 100}


def busy_neighbour(
    make: Callable[[str], Subject], pacs: Pacs, receiver: AnyReceiver, count: int, per_second: float
) -> Figures:
    """The delay, and the CPU, while other tables of the same server change."""
    pacs.execute(
        "CREATE TABLE IF NOT EXISTS neighbour (id BIGINT AUTO_INCREMENT PRIMARY KEY, text VARCHAR(200))"
    )
    ended = threading.Event()
    done = [0]

    def work() -> None:
        with closing(pacs.connect()) as connection, connection.cursor() as cursor:
            began = time.monotonic()
            while not ended.is_set():
                cursor.execute("INSERT INTO neighbour (text) VALUES (REPEAT('x', 100))")
                done[0] += 1
                ahead = done[0] / per_second - (time.monotonic() - began)
                if ahead > 0.002:
                    time.sleep(ahead)

    thread = threading.Thread(target=work)
    thread.start()
    began = time.monotonic()
    try:
        figures, _ = delay(make, pacs, receiver, count)
    finally:
        ended.set()
        thread.join()
    return {**figures, "neighbour's transactions/s": done[0] / (time.monotonic() - began)}


def makers(directory: Path, pacs: Pacs, url: str) -> dict[str, Callable[..., Subject]]:
    """Each makes a fresh subject for a path of the receiver, with settings of delivery (ours only)."""
    number = iter(range(1_000_000))

    def ours(path: str, **delivery: object) -> Subject:
        return Ours(directory / f"ours{next(number)}", pacs, f"{url}{path}", **delivery)

    def before(path: str, **delivery: object) -> Subject:
        return Before(directory / f"before{next(number)}", pacs, f"{url}{path}", **delivery)

    def plain(path: str) -> Subject:
        return PlainScript(directory / f"plain{next(number)}", pacs, f"{url}{path}")

    def zongji(path: str) -> Subject:
        return Zongji(directory / f"zongji{next(number)}", pacs, f"{url}{path}")

    return {Ours.name: ours, Before.name: before, PlainScript.name: plain, Zongji.name: zongji}

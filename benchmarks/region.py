"""``make bench CASES=region``: the reference index on PostgreSQL beside the embedded store and nginx, and searches.

STUDIES=10000000 sets how many studies lie there (1,000,000; with QUICK=1 5,000), SECONDS how long each is measured.
Everything shares this machine, so the CPU of a study stands beside each rate: of all processes of the index and of
PostgreSQL together. The figures go to benchmarks/results/region.md, with QUICK=1 to benchmarks/results/quick/region.md.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.receiver import NginxMissing, Receiver
from benchmarks.region_studies import CENTERS, FAMILY_NAMES, GIVEN_NAMES, as_moved, studies
from central_index.postgres_pool import Connection
from central_index.postgres_rows import MOVE
from central_index.postgres_schema import prepare
from tests.central.postgres import Cluster, started
from tests.ports import free_port

_RESULTS = Path(__file__).resolve().parent / "results"
READER = "key-of-the-benchmark-s-reader"
_TICKS = os.sysconf("SC_CLK_TCK")
_FILLED_AT_ONCE = 5_000
#: Studies in a request, and connections that send them.
_LOADS = (("singles", 1, 128), ("batches of 100", 100, 4))


class Table:
    """Written at once: a benchmark that is stopped has measured something."""

    def __init__(self, path: Path, machine: str) -> None:
        self._path = path
        self._lines = [
            f"# The index of a region\n\n{machine}\n\n| what | figure | value |\n| --- | --- | --- |"
        ]

    def add(self, what: str, **figures: float) -> None:
        for name, value in figures.items():
            shown = f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
            self._lines.append(f"| {what} | {name.replace('_', ' ')} | {shown} |")
        print(
            f"{what:<56} " + "  ".join(f"{name} {value:,.1f}" for name, value in figures.items()), flush=True
        )
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text("\n".join(self._lines) + "\n")


# --- the processes -------------------------------------------------------------------------------------------


class Index:
    """One process of the index."""

    def __init__(self, directory: Path, database: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        keys = {"centers": {name: f"key-of-centre-{name}" for name in CENTERS}, "readers": {"bench": READER}}
        (directory / "keys.json").write_text(json.dumps(keys))
        (directory / "audit.key").write_text("a-random-key-of-the-benchmark-0123456789")
        self.port = free_port()
        with (directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "central_index", "--listen", f"127.0.0.1:{self.port}"),
                    *("--database", database, "--keys", str(directory / "keys.json")),
                    *("--audit-key", str(directory / "audit.key")),
                ],
                stdout=log, stderr=log,
            )  # fmt: skip

    def memory_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


@contextmanager
def indexes(number: int, database: str, directory: Path | None = None) -> Iterator[list[Index]]:
    """So many processes on one database: a URL, or the name of a file in the directory of each."""
    with ExitStack() as stack:
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="region-")))
        found: list[Index] = []
        for place in range(number):
            one = Index(directory / str(place), database if "://" in database else str(directory / database))
            stack.callback(one.stop)
            asyncio.run(_listening(one))
            found.append(one)
        yield found


async def _listening(index: Index) -> None:
    for _ in range(600):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", index.port)
        except OSError:
            await asyncio.sleep(0.1)
        else:
            writer.close()
            return
    raise RuntimeError("the index doesn't start")


def _pids(indexes: list[Index], cluster: Cluster | None) -> list[int]:
    return [one.process.pid for one in indexes] + (cluster.pids() if cluster is not None else [])


def written_kb(indexes: list[Index], cluster: Cluster | None) -> float:
    """What they have given the disk to write, log and tables; the kernel may write a page less often."""
    total = 0
    for pid in _pids(indexes, cluster):
        try:
            said = Path(f"/proc/{pid}/io").read_text()
        except (FileNotFoundError, PermissionError):
            continue
        total += int(said.partition("\nwrite_bytes: ")[2].split()[0])
    return total / 1024


def cpu_seconds(indexes: list[Index], cluster: Cluster | None) -> float:
    total = 0
    for pid in _pids(indexes, cluster):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


# --- requests ------------------------------------------------------------------------------------------------


class Client:
    """One connection that is kept."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Client:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def post(self, path: str, key: str, body: bytes, more: str = "") -> tuple[int, bytes]:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: index\r\nX-Api-Key: {key}\r\nContent-Type: application/json\r\n"
            f"{more}Content-Length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(answer.split(None, 2)[1]), await self._reader.readexactly(length)


class Sender:
    """New studies and, as often, newer versions of them, each by its own centre."""

    def __init__(
        self, first: int, batch: int = 1, path: str = "/api/v1/register", taken: int | None = None
    ) -> None:
        self._batch = batch
        self._path = path
        self._taken = taken or (201 if batch == 1 else 207)
        self._studies = self._endless(first)

    @staticmethod
    def _endless(first: int) -> Iterator[dict[str, Any]]:
        for start in itertools.count(first, 200):
            some = list(studies(start, 200))
            yield from some
            yield from ({**one, "study_instances": 1_000} for one in some)

    async def send(self, client: Client) -> int:
        """How many went."""
        if self._batch == 1:
            one = next(self._studies)
            more = f"Study-Version: {time.time_ns() // 1000}\r\nIdempotency-Key: {one['study_pk']}\r\n"
            status, _ = await client.post(
                self._path, f"key-of-centre-{one['center']}", json.dumps(one).encode(), more
            )
            # 409: by another connection its newer version was quicker.
            if status not in (self._taken, 409):
                raise RuntimeError(f"a study was answered with {status}")
            return int(status == self._taken)
        version = time.time_ns() // 1000
        some = [
            {**next(self._studies), "center": CENTERS[version % 300], "version": version + place}
            for place in range(self._batch)
        ]
        status, _ = await client.post(
            self._path, f"key-of-centre-{CENTERS[version % 300]}", json.dumps(some).encode()
        )
        if status != self._taken:
            raise RuntimeError(f"a batch was answered with {status}")
        return self._batch


async def _for_a_while(
    seconds: float, connections: int, ports: list[int], work: Callable[[Client], Awaitable[int]]
) -> float:
    """How many studies went in a second."""
    end = time.monotonic() + seconds
    done = 0

    async def one(place: int) -> None:
        nonlocal done
        async with Client(ports[place % len(ports)]) as client:
            while time.monotonic() < end:
                # Not in one statement: that would take `done` from before the wait.
                number = await work(client)
                done += number

    await asyncio.gather(*(one(place) for place in range(connections)))
    return done / seconds


# --- what is measured ----------------------------------------------------------------------------------------


def into_nginx(table: Table, first: int, seconds: float) -> None:
    """What the sender and two cores could do, if an index were nothing but a log of bodies."""
    with tempfile.TemporaryDirectory(prefix="region-") as directory:
        try:
            receiver = Receiver(Path(directory) / "nginx")
        except NginxMissing as error:
            print(f"Without nginx: {error}", flush=True)
            return
        try:
            port = int(receiver.url.rpartition(":")[2])
            for what, batch, connections in _LOADS:
                sender = Sender(first, batch, "/near", 201)
                rate = asyncio.run(_for_a_while(seconds, connections, [port], sender.send))
                table.add(f"nginx: {what}", studies_per_second=rate)
        finally:
            receiver.close()


def ingest(table: Table, cluster: Cluster, database: str, first: int, seconds: float) -> None:
    for name, number, where in (
        ("embedded store", 1, "central.sqlite"),
        ("PostgreSQL, 1 process", 1, database),
        ("PostgreSQL, 2 processes", 2, database),
        ("PostgreSQL, 3 processes", 3, database),
    ):
        on = cluster if where == database else None
        with indexes(number, where) as running:
            ports = [one.port for one in running]
            for what, batch, connections in _LOADS:
                sender = Sender(first, batch)
                first += 10_000_000
                before = cpu_seconds(running, None), cpu_seconds([], on)
                had_written = written_kb(running, on)
                rate = asyncio.run(_for_a_while(seconds, connections, ports, sender.send))
                own, databases = cpu_seconds(running, None) - before[0], cpu_seconds([], on) - before[1]
                table.add(
                    f"{name}: {what}",
                    studies_per_second=rate,
                    cpu_us_per_study=(own + databases) / (rate * seconds) * 1e6,
                    of_it_in_the_database=databases / (rate * seconds) * 1e6,
                    KB_written_per_study=(written_kb(running, on) - had_written) / (rate * seconds),
                )
            table.add(f"{name}: memory of a process", MB=max(one.memory_mb() for one in running))


def _day(rng: random.Random) -> dict[str, Any]:
    day = f"{rng.randrange(2019, 2026)}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}"
    return {"from": day, "to": day}


SEARCHES: dict[str, Callable[[random.Random], dict[str, Any]]] = {
    "id": lambda rng: {"patient_id": f"{(pk := rng.randrange(1, 400_000)) + 1_000_000}-{pk % 10}"},
    "name": lambda rng: {"patient": f"{rng.choice(GIVEN_NAMES[:200])} {rng.choice(FAMILY_NAMES[:500])}"},
    "rare name": lambda rng: {"patient": rng.choice(FAMILY_NAMES[10_000:])},
    "MARIA": lambda rng: {"patient": "MARIA"},
    "day": _day,
    "modality and day": lambda rng: {"modality": rng.choice(("CT", "MR", "US", "XA")), **_day(rng)},
    "centre": lambda rng: {"center": rng.choice(CENTERS)},
}


def _any(rng: random.Random) -> dict[str, Any]:
    """What somebody may come to ask, possible or not."""
    parts: tuple[Callable[[], dict[str, Any]], ...] = (
        lambda: {
            "patient": rng.choice([*GIVEN_NAMES[:20], *FAMILY_NAMES[:20], *FAMILY_NAMES[-50:], "M", "XQZ"])
        },
        lambda: {"modality": rng.choice(("CT", "MR", "XA", "OT", "ZZ"))},
        lambda: {"center": rng.choice([*CENTERS, "999"])},
        lambda: {"from": f"{rng.randrange(2015, 2028)}-01-01"},
        lambda: {"to": f"{rng.randrange(2015, 2028)}-12-31"},
        lambda: {"patient_id": f"{rng.randrange(1_000_000, 1_500_000)}-1"},
    )
    found: dict[str, Any] = {}
    for part in rng.sample(parts, rng.randrange(1, 5)):
        found |= part()
    if found.get("from", "") > found.get("to", "9"):
        del found["to"]
    return found


async def answer_ms(client: Client, asked: dict[str, Any]) -> float:
    began = time.perf_counter()
    status, body = await client.post("/api/v1/search", READER, json.dumps(asked).encode())
    if status != 200:
        raise RuntimeError(f"{sorted(asked)} was answered with {status}: {body[:200]!r}")
    return (time.perf_counter() - began) * 1000


async def _searches(
    port: int,
    arriving: int,
    first: int,
    number: int,
    make: Callable[[random.Random], Any],
    at_once: int = 20,
    seed: int = 7,
) -> list[float]:
    """The milliseconds of each while so many studies arrive in a second."""
    rng = random.Random(seed)
    questions = iter([make(rng) for _ in range(number)])
    took: list[float] = []
    searching = True
    sender = Sender(first)

    async def arrive() -> None:
        async with Client(port) as client:
            due = time.monotonic()
            while searching:
                await sender.send(client)
                due += 4 / arriving
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def ask() -> None:
        async with Client(port) as client:
            for question in questions:
                took.append(await answer_ms(client, question))

    arrivals = [asyncio.create_task(arrive()) for _ in range(4 if arriving else 0)]
    await asyncio.gather(*(ask() for _ in range(at_once)))
    searching = False
    await asyncio.gather(*arrivals)
    return took


def search(
    table: Table, cluster: Cluster, database: str, first: int, arriving: int, number: int, combinations: int
) -> None:
    with indexes(1, database) as (index,):
        # Nothing arrives: what a search alone costs.
        for name, make in {**SEARCHES, "anything": _any}.items():
            before = cpu_seconds([index], None), cpu_seconds([], cluster)
            took = asyncio.run(_searches(index.port, 0, first, number, make, at_once=4, seed=8))
            own, databases = cpu_seconds([index], None) - before[0], cpu_seconds([], cluster) - before[1]
            table.add(
                f"search by {name}, 4 at a time",
                cpu_ms=(own + databases) / number * 1e3,
                of_it_in_the_database=databases / number * 1e3,
                p95_ms=statistics.quantiles(took, n=20)[-1],
            )
        for name, make in SEARCHES.items():
            took = asyncio.run(_searches(index.port, arriving, first, number, make))
            first += 1_000_000
            table.add(
                f"search by {name}, 20 at a time, {arriving} studies/s arriving",
                p50_ms=statistics.median(took),
                p95_ms=statistics.quantiles(took, n=20)[-1] if len(took) > 1 else took[0],
            )
        took = asyncio.run(_searches(index.port, arriving, first, combinations, _any))
        table.add(
            f"{combinations:,} random combinations",
            p95_ms=statistics.quantiles(took, n=20)[-1],
            worst_ms=max(took),
        )
        table.add("memory of the process after the searches", MB=index.memory_mb())


async def fill(url: str, number: int) -> None:
    """As `central-index move` does it, but that the indexes are made afterwards, which takes a third of the time."""
    async with await Connection.connect(url, autocommit=True) as connection:
        await prepare(connection)
        rows = await connection.execute(
            "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'studies' AND indexname <> 'studies_pkey'"
        )
        indexes_ = await rows.fetchall()
        for name, _ in indexes_:
            await connection.execute(f"DROP INDEX {name}")
        now = time.time()
        for first in range(1, number + 1, _FILLED_AT_ONCE):
            some = studies(first, min(_FILLED_AT_ONCE, number - first + 1))
            await connection.execute(MOVE, as_moved(some, now, int(now * 1e6)))
        await connection.execute("SET maintenance_work_mem = '512MB'")
        for _, definition in indexes_:
            await connection.execute(definition.replace(" ON ONLY ", " ON "))
        await connection.execute("VACUUM ANALYZE studies")


def main(quick: bool) -> int:
    number = int(os.environ.get("STUDIES") or (5_000 if quick else 1_000_000))
    seconds = float(os.environ.get("SECONDS") or (1 if quick else 20))
    machine = (
        f"{os.cpu_count()} cores, Python {platform.python_version()}, {number:,} studies; "
        f"load average at the start {os.getloadavg()[0]:.1f}"
    )
    table = Table((_RESULTS / "quick" if quick else _RESULTS) / "region.md", machine)
    # A quarter of the memory, as docs/region.md says.
    megabytes = 256 if quick else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4 >> 20
    with started(fsync="on", shared_buffers=f"{megabytes}MB", max_wal_size="4GB") as cluster:
        database = cluster.new_database(empty=True)
        began = time.monotonic()
        asyncio.run(fill(database, number))
        size = cluster.execute(
            database.rpartition("/")[2],
            "SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'studies'::regclass",
        )[0][0]
        table.add(
            "filled",
            studies_per_second=number / (time.monotonic() - began),
            bytes_per_study=float(size) / number,
        )
        search(
            table,
            cluster,
            database,
            number + 1,
            20 if quick else 500,
            20 if quick else 400,
            50 if quick else 10_000,
        )
        into_nginx(table, number + 90_000_000, seconds)
        ingest(table, cluster, database, number + 100_000_000, seconds)
    table.add("the machine", load_average_at_the_end=os.getloadavg()[0])
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ.get("QUICK", "") not in ("", "0")))

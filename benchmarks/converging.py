"""Archive and reference index converge: a pass over equals, differences put in by hand, an index restored from a backup."""

from __future__ import annotations

import json
import os
import random
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.measurements import Figures
from benchmarks.subjects import Ours
from benchmarks.sweeping import fill
from tests.central.conftest import KEYS, Index
from tests.pacs import Pacs
from tests.ports import free_port
from tests.servers import Server

_ADD = Path(__file__).resolve().parent.parent / "extras/add_indexer.sql"
_CENTER = "000"
_CHANGES_PER_SECOND = 50
#: What isn't there in two readings is gone; by default they lie ten minutes apart.
_GONE_AFTER_SECONDS = 5
_SHOWN = "patient_id, patient_name, study_description, study_instances"


class Meter:
    """Passes bytes to the index, and counts them, both ways."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.port = free_port()
        self.bytes = 0
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                theirs, _ = self._listener.accept()
                try:
                    ours = socket.create_connection(("127.0.0.1", self._to))
                except OSError:
                    theirs.close()
                    continue
                for pair in ((theirs, ours), (ours, theirs)):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                self.bytes += len(data)
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


class Site:
    """An archive of ``count`` studies, the reference index with all of them, and `run` between them."""

    def __init__(self, directory: Path, server: Server, count: int) -> None:
        self.count = count
        self.server = server
        self.pacs = Pacs.create_bare(server)
        (directory / "index").mkdir(parents=True)
        self.index = Index(directory / "index")
        self.index.start()
        self.meter = Meter(int(self.index.url.rpartition(":")[2]))
        self.ours = Ours(directory / "ours", self.pacs, f"http://127.0.0.1:{self.meter.port}/api/v1/register")
        self._configure()
        fill(self.pacs, count)
        #: Not every number is a study's: a server that inserts many rows reserves more.
        self.pks = [int(pk) for (pk,) in self.pacs.execute("SELECT pk FROM study ORDER BY pk")]
        server.run_script(_ADD.read_text(), self.pacs.name)
        self.pacs.grant()
        self.ours.environment = {
            "CDC_INDEXER_TEST_REST_SECONDS": "0",
            "CDC_INDEXER_TEST_GONE_AFTER_SECONDS": str(_GONE_AFTER_SECONDS),
        }

    def _configure(self) -> None:
        path = self.ours.directory / "config.json"
        config = json.loads(path.read_text())
        config |= {"key": KEYS["centers"][_CENTER], "reconcile": {"studies_per_second": 100_000}}
        config["delivery"] = {"deletes": "delete"}
        path.write_text(json.dumps(config))

    def close(self) -> None:
        self.ours.stop()
        self.index.stop()
        self.index.session.close()
        self.meter.close()
        self.pacs.destroy()

    def start(self) -> float:
        """Sends all that the archive holds, and starts `run`; studies a second."""
        began = time.monotonic()
        self.ours.start("initial")
        self.ours.wait()
        took = time.monotonic() - began
        if self.held() != self.count:
            raise RuntimeError(f"the index has {self.held()} of {self.count} studies")
        # Before its sessions begin. Whatever it asks from now on is in the log.
        for setting in ("log_output = 'TABLE'", "long_query_time = 0", "slow_query_log = 1"):
            self.server.execute(f"SET GLOBAL {setting}")
        self.ours.start()
        self.ours.caught_up()
        return self.count / took

    def held(self) -> int:
        return int(self.index.rows("SELECT count(*) FROM studies WHERE NOT deleted")[0][0])

    def equal(self) -> bool:
        """Whether the index holds what the archive does."""
        query = f"SELECT study_iuid, study_pk, {_SHOWN} FROM"
        there = set(self.index.rows(f"{query} studies WHERE NOT deleted"))
        return there == set(self.pacs.execute(f"{query} indexer_study"))

    def reconcile(self) -> dict[str, Any]:
        command = [*self.ours.command(), "reconcile", "--json"]
        done = subprocess.run(command, cwd=self.ours.directory, capture_output=True, text=True, check=False)
        if not done.stdout:
            raise RuntimeError(done.stderr)
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def said(self, what: str) -> int:
        return (self.ours.directory / "log.txt").read_text().count(what)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """The archive's newest thousand studies change at random, fifty a second."""
        done = threading.Event()
        rng, newest = random.Random(7), self.pks[-1000:]

        def change() -> None:
            next_at, number = time.monotonic(), 0
            with closing(self.pacs.connect(autocommit=True)) as connection, connection.cursor() as cursor:
                while not done.wait(max(0.0, next_at - time.monotonic())):
                    next_at += 1 / _CHANGES_PER_SECOND
                    number += 1
                    study_pk = rng.choice(newest)
                    cursor.execute(
                        "UPDATE study SET study_desc = %s WHERE pk = %s", (f"CHANGED {number}", study_pk)
                    )

        thread = threading.Thread(target=change)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def measure(directory: Path, server: Server, count: int, passes: int, report: Callable[..., None]) -> None:
    """On a MariaDB; ``report`` takes what was measured, and its figures."""
    load = os.getloadavg()[0]
    site = Site(directory, server, count)
    try:
        rate = site.start()
        report(
            f"a pass over {count:,} equal studies", {**_equal(site), "initial, studies/s": rate, "load": load}
        )
        report(f"1,000 differences among {count:,} under changes", _differences(site, passes))
        report(f"an index restored without 5,000 of {count + 5_000:,}", _restored(site))
    finally:
        for setting in ("slow_query_log = 0", "long_query_time = 10", "log_output = 'FILE'"):
            server.execute(f"SET GLOBAL {setting}")
        site.close()


def _equal(site: Site) -> Figures:
    site.reconcile()
    before, sent = site.ours.usage(), site.meter.bytes
    result = site.reconcile()
    after, sent = site.ours.usage(), site.meter.bytes - sent
    if not result["index"] or result["missing"] or result["stale"] or result["extra"]:
        raise RuntimeError(f"the pass found what isn't there: {result}")
    site.server.execute("SET GLOBAL slow_query_log = 0")
    ((longest,),) = site.server.execute(
        "SELECT MAX(TIME_TO_SEC(query_time)) FROM mysql.slow_log WHERE db = %s AND user_host LIKE %s",
        (site.pacs.name, f"{site.pacs.user}%"),
    )
    return {
        "pass, s": result["seconds"],
        "pass, s for 1,000,000": result["seconds"] / result["compared"] * 1e6,
        "CPU s for 1,000,000": (after.cpu_seconds - before.cpu_seconds) / result["compared"] * 1e6,
        "longest query, ms": float(longest or 0) * 1e3,
        "KB over the line": sent / 1000,
        "peak MB before": before.peak_mb,
        "peak MB after": after.peak_mb,
    }


def _differences(site: Site, passes: int) -> Figures:
    """A third each lost, stale and extra; then passes that find nothing, all under changes."""
    rng = random.Random(11)
    pks = rng.sample(site.pks[:-1000], 1000)
    # More deletions than a hundredth of all are held.
    extra = pks[: min(333, site.count // 200)]
    rest = pks[len(extra) :]
    lost, stale = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    site.index.execute(
        f"DELETE FROM studies WHERE study_pk IN ({','.join(map(str, lost))});"
        f"UPDATE studies SET patient_name = 'OTRA^PERSONA' WHERE study_pk IN ({','.join(map(str, stale))});"
        "INSERT INTO studies (patient_pk, study_pk, study_iuid, center, more, first_received_at, received_at, versions)"
        f" SELECT patient_pk, study_pk, study_iuid || '.9', center, more, 0, 0, 1 FROM studies"
        f" WHERE study_pk IN ({','.join(map(str, extra))});"
    )
    with site.changing():
        time.sleep(6)
        first = site.reconcile()
        false, seconds = 0, []
        for _ in range(passes):
            result = site.reconcile()
            false += result["missing"] + result["stale"] + result["extra"]
            seconds.append(result["seconds"])
    deadline = time.monotonic() + 120
    while not (equal := site.equal()) and time.monotonic() < deadline:
        time.sleep(1)
    return {
        "lost found": first["missing"],
        "stale found": first["stale"],
        "extra found": first["extra"],
        "healed": first["healed"],
        "pass, s": first["seconds"],
        "false ones in the passes after": false,
        "passes after": passes,
        "their median, s": statistics.median(seconds),
        "equal at the end": float(equal),
    }


def _restored(site: Site) -> Figures:
    def sent() -> int:
        shown = subprocess.run(
            [*site.ours.command(), "status", "--json"],
            cwd=site.ours.directory,
            capture_output=True,
            check=False,
        )
        return int(json.loads(shown.stdout)["delivered"])

    def until(condition: Callable[[], bool]) -> float:
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > 900:
                raise RuntimeError("it didn't come")
            time.sleep(0.25)
        return time.monotonic() - began

    held = site.held()
    site.index.stop()
    copy = site.index.backup()
    site.index.start()
    site.pacs.store_studies(5_000)
    until(lambda: site.held() == held + 5_000)
    time.sleep(10)
    noticed, before = site.said("the ledger isn't believed"), sent()
    site.index.stop()
    site.index.restore(copy)
    site.index.start()
    began = time.monotonic()
    until(lambda: site.said("the ledger isn't believed") > noticed)
    noticed_after = time.monotonic() - began
    until(lambda: site.held() == held + 5_000)
    healed_after = time.monotonic() - began
    until(lambda: site.said("the ledger is believed again") > 0)
    time.sleep(3)
    return {
        "noticed after, s": noticed_after,
        "healed after, s": healed_after,
        "sent, times what was missing": (sent() - before) / 5_000,
        "equal at the end": float(site.equal()),
    }

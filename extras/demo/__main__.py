"""``python -m extras.demo``: the whole way of a study, on this machine alone; Ctrl-C ends it and cleans up.

DEMO_SECONDS=20 ends it after so many seconds of storing, with a comparison of the archive with the index:
exit status 0 if they hold the same, else 1.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import secrets
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pymysql
import requests

from extras.demo.comparison import Difference, compare, held_by_index, held_by_pacs
from extras.demo.processes import DemoFailed, Interrupted, Process, Signals, running
from extras.demo.sample import SampleStudy, load, read_sample
from extras.demo.server import Server, free_ports
from extras.demo.simulator import STUDIES_PER_SECOND, Simulator
from extras.demo.watch import Arrivals

_ROOT = Path(__file__).resolve().parent.parent.parent
_DATABASE = "pacsdb"
_CENTER = "000"
#: So many are in the archive before the indexer comes; the rest is stored while it runs.
_HELD_STUDIES = 2_500
#: An archive counts a minute after the last image; the simulator at once, and so the indexer needn't wait longer: what
#: people see first are studies with their images.
_SETTLE_SECONDS = 0.5
_START_SECONDS = 30.0
_CATCH_UP_SECONDS = 60.0
#: Differences that stay the same for so long stay.
_STILL_SECONDS = 12.0
_SHOWN_DIFFERENCES = 10


class Demo:
    """One demonstration in ``directory``; what it starts is ended with ``stack``."""

    def __init__(self, directory: Path, stack: ExitStack, signals: Signals) -> None:
        self._directory = directory
        self._stack = stack
        self._signals = signals
        self._key, self._reading_key, self._password = (secrets.token_urlsafe(18) for _ in range(3))
        database_port, index_port, status_port = free_ports(3)
        self._database_port = database_port
        self._index_address = f"127.0.0.1:{index_port}"
        self._status_address = f"127.0.0.1:{status_port}"
        self._session = stack.enter_context(requests.Session())
        # Loopback, whatever proxy the environment names.
        self._session.trust_env = False
        self._server: Server
        self._processes: list[Process] = []

    def run(self, seconds: float | None) -> bool:
        """Everything; with ``seconds`` None until Interrupted. Whether the archive and the index hold the same."""
        say("A private database ...")
        self._server = Server.start_new(self._directory, self._signals, self._stack, self._database_port)
        self._processes.append(self._server.process)
        studies = read_sample()
        say(
            f"{self._server.version}, port {self._database_port}: an archive with {_HELD_STUDIES:,} real studies ..."
        )
        self._make_archive(studies[:_HELD_STUDIES])
        self._start_index()
        self._write_files()
        say("python -m cdc_indexer initial")
        with running(self._indexer("initial", None)) as initial:
            initial.wait()
        say("python -m cdc_indexer run")
        indexer = self._indexer("run", self._directory / "run.log")
        self._stack.callback(indexer.stop)
        self._processes.append(indexer)
        say(f"""
  The central index:  http://{self._index_address}/   log in with {self._reading_key}
  The indexer:        http://{self._status_address}/   its log: {self._directory / "run.log"}

{STUDIES_PER_SECOND:g} studies a second are stored now{", until Ctrl-C" if seconds is None else f", for {seconds:g} s"}.""")
        simulator = Simulator(lambda: self._server.connect(_DATABASE), studies[_HELD_STUDIES:])
        self._stack.callback(simulator.stop)
        simulator.start()
        self._watch(simulator, math.inf if seconds is None else seconds)
        simulator.stop()
        differences, count = self._settled_differences()
        if indexer.stop() != 0:
            raise indexer.failure("didn't end with status 0 when it was asked to")
        return verdict(differences, count)

    # --- setting up --------------------------------------------------------------------------------------

    def _make_archive(self, studies: list[SampleStudy]) -> None:
        server = self._server
        with server.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {_DATABASE} CHARACTER SET latin1")
            # The archive's own account, to which the triggers belong; the simulator comes as root.
            cursor.execute("CREATE USER 'pacs'@'localhost' IDENTIFIED BY %s", (secrets.token_urlsafe(24),))
            cursor.execute(f"GRANT ALL ON {_DATABASE}.* TO 'pacs'@'localhost'")
        server.run_script(_ROOT / "tests/schemas/dcm4chee2.sql", _DATABASE)
        with server.connect(_DATABASE) as connection:
            load(connection, studies)
        server.run_script(_ROOT / "extras/add_indexer.sql", _DATABASE)
        with server.connect(_DATABASE) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE USER 'indexer'@'localhost' IDENTIFIED BY %s", (self._password,))
            for grant in (
                f"SELECT ON {_DATABASE}.study_service",
                f"SELECT ON {_DATABASE}.indexer_study",
                "REPLICATION SLAVE, REPLICATION CLIENT ON *.*",
            ):
                cursor.execute(f"GRANT {grant} TO 'indexer'@'localhost'")

    def _start_index(self) -> None:
        keys = self._directory / "keys.json"
        write_private(keys, {"centers": {_CENTER: self._key}, "readers": {"demo": self._reading_key}})
        index = Process(
            "The central index",
            [
                *(sys.executable, "-m", "extras.central"),
                *("--listen", self._index_address),
                *("--database", str(self._directory / "index.sqlite")),
                *("--keys", str(keys)),
            ],
            self._signals,
            directory=_ROOT,
            log_path=self._directory / "index.log",
        )
        self._stack.callback(index.stop)
        self._processes.append(index)
        self._wait_for(f"http://{self._index_address}/", index)

    def _write_files(self) -> None:
        """The indexer's, as the README says."""
        write_private(
            self._directory / "config.json",
            {
                "database": {
                    "host": "127.0.0.1",
                    "port": self._database_port,
                    "user": "indexer",
                    "password": self._password,
                    "name": _DATABASE,
                },
                "key": self._key,
                "webservice_url": f"http://{self._index_address}/api/v1/register",
                "delivery": {"settle_seconds": _SETTLE_SECONDS},
                "monitor": {"listen": self._status_address},
            },
        )
        write_private(self._directory / "server.json", {"server": _CENTER})

    def _indexer(self, command: str, log_path: Path | None) -> Process:
        return Process(
            f"cdc_indexer {command}",
            [sys.executable, "-m", "cdc_indexer", "--config", str(self._directory / "config.json"), command],
            self._signals,
            directory=_ROOT,
            log_path=log_path,
        )

    def _wait_for(self, url: str, process: Process) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            process.check()
            try:
                self._session.get(url, timeout=_START_SECONDS)
            except requests.ConnectionError as error:
                if time.monotonic() > deadline:
                    raise process.failure(f"doesn't answer at {url}") from error
                self._signals.sleep(0.05)
            else:
                return

    # --- while it runs -----------------------------------------------------------------------------------

    def _check(self, simulator: Simulator | None = None) -> None:
        """Raises DemoFailed if something has died."""
        for process in self._processes:
            process.check()
        if simulator is not None and simulator.error is not None:
            raise DemoFailed(f"The simulated archive can't store any more: {simulator.error}.")

    def _watch(self, simulator: Simulator, seconds: float) -> None:
        """A line a second, for so many seconds; until Interrupted if that is infinite."""
        arrivals = Arrivals(simulator.committed_at)
        began = time.monotonic()
        for second in itertools.count(1):
            if second > seconds:
                return
            self._signals.sleep(began + second - time.monotonic())
            self._check(simulator)
            arrivals.add(self._index_studies())
            median = arrivals.median_seconds
            delay = "" if median is None else f"   median delay {median * 1000:.1f} ms"
            say(
                f"{second:>5} s   stored {len(simulator.committed_at):>6,}   indexed {arrivals.count:>6,}{delay}"
            )

    def _index_studies(self) -> list[dict[str, Any]]:
        return held_by_index(self._session, f"http://{self._index_address}/api/v1/studies", self._reading_key)

    def _settled_differences(self) -> tuple[list[Difference], int]:
        """What still differs once nothing moves any more, and how many studies the archive holds."""
        say("The archive is quiet now; the indexer sends what it still has ...")
        with self._server.connect(_DATABASE) as connection:
            pacs = held_by_pacs(connection, _CENTER)
        began = since = time.monotonic()
        before: list[Difference] | None = None
        while True:
            self._check()
            differences = compare(pacs, self._index_studies())
            now = time.monotonic()
            if differences != before:
                before, since = differences, now
            # Equal once isn't enough: what is still to come could be an older version.
            enough = _STILL_SECONDS if differences else _SETTLE_SECONDS + 1
            if now - since > enough or now - began > _CATCH_UP_SECONDS:
                return differences, len(pacs)
            self._signals.sleep(0.5)


def verdict(differences: list[Difference], count: int) -> bool:
    """Says it; whether there is no difference."""
    if not differences:
        say(f"The index holds what the archive holds: {count:,} studies, compared field by field.")
        return True
    say(f"The index DIFFERS from the archive ({count:,} studies) in {len(differences):,}:")
    for difference in differences[:_SHOWN_DIFFERENCES]:
        say(f"  {difference.study_iuid}: {difference.what}")
    return False


def say(text: str) -> None:
    print(text, flush=True)


def write_private(path: Path, content: dict[str, Any]) -> None:
    """A file that only this account can read."""
    path.touch(mode=0o600)
    path.write_text(json.dumps(content, indent=4))


def demo_seconds() -> float | None:
    """DEMO_SECONDS, None if it isn't set; raises DemoFailed."""
    text = os.environ.get("DEMO_SECONDS", "")
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 1 <= seconds <= 1_000_000:
        raise DemoFailed("DEMO_SECONDS must be a number of seconds, from 1 on.")
    return seconds


def main() -> int:
    """The exit status: 0 ended by Ctrl-C, or equal; 1 something failed, or differs."""
    signals = Signals()
    signals.install()
    checking = False
    try:
        seconds = demo_seconds()
        checking = seconds is not None
        with tempfile.TemporaryDirectory(prefix="cdc-indexer-demo-") as directory, ExitStack() as stack:
            return 0 if Demo(Path(directory), stack, signals).run(seconds) else 1
    except Interrupted:
        say("\nStopped; nothing is left behind." if not checking else "\nStopped before the comparison.")
        return 1 if checking else 0
    except DemoFailed as error:
        reason = str(error)
    except pymysql.err.Error as error:
        reason = f"The private database failed: {error}."
    except requests.RequestException as error:
        reason = f"The central index doesn't answer as it should: {error}."
    except OSError as error:
        reason = f"{error.filename or 'The demo'}: {error.strerror or error}."
    print(f"demo: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

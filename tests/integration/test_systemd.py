"""The service under systemd: what it tells it, and the unit in extras/."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.indexer import Indexer
from tests.pacs import Pacs
from tests.receiver import Receiver

pytestmark = pytest.mark.one_server

UNIT = Path(__file__).resolve().parent.parent.parent / "extras/cdc-indexer.service"

#: The service, with the worker's patience as short as a test's.
_SERVICE = """
import sys
from cdc_indexer import cli
from cdc_indexer.jobs import follow, run as service
service._PATIENCE_SECONDS = 1.0
if "stuck" in sys.argv:
    sys.argv.remove("stuck")
    # A read that never returns, as where a timeout is forgotten.
    follow.BinlogReader.__iter__ = lambda self: iter(lambda: __import__("time").sleep(3600), None)
cli.main()
"""


@pytest.fixture
def indexer(pacs: Pacs, receiver: Receiver, tmp_path: Path) -> Iterator[Indexer]:
    one = Indexer(tmp_path / "indexer", pacs, receiver.url)
    yield one
    one.close()


class Systemd:
    """As much of systemd as a service sees."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "notify")
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(self.path)
        self.told: list[str] = []

    def start(self, indexer: Indexer, *arguments: str) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "NOTIFY_SOCKET": self.path,
            "WATCHDOG_USEC": "600000",
        }
        with indexer.log_path.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", _SERVICE, *arguments, "run"],
                cwd=indexer.directory,
                stdout=log,
                stderr=log,
                env=environment,
            )

    def next(self, seconds: float = 30.0) -> str:
        """What comes next; "" when nothing comes in time."""
        self._sock.settimeout(seconds)
        try:
            self.told.append(self._sock.recv(4096).decode())
        except TimeoutError:
            return ""
        return self.told[-1]

    def close(self) -> None:
        self._sock.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    with closing(Systemd(tmp_path)) as one:
        yield one


def test_ready_watchdog_stopping(indexer: Indexer, systemd: Systemd) -> None:
    process = systemd.start(indexer)
    try:
        assert systemd.next() == "READY=1"
        # Longer than the patience, on a server where nothing happens but heartbeats.
        for _ in range(4):
            assert systemd.next(5) == "WATCHDOG=1"
        process.send_signal(signal.SIGTERM)
        while (told := systemd.next()) == "WATCHDOG=1":
            pass
        assert told == "STOPPING=1"
        assert process.wait(30) == 0
        assert systemd.next(0.1) in ("", "WATCHDOG=1")
    finally:
        process.kill()
        process.wait()


def test_ready_without_the_database(indexer: Indexer, systemd: Systemd) -> None:
    """It waits for a database that comes later than it; systemd mustn't think that it fails to start."""
    indexer.settings["database"]["port"] = 1
    indexer.write_files()
    process = systemd.start(indexer)
    try:
        assert systemd.next() == "READY=1"
        assert systemd.next(5) == "WATCHDOG=1"
    finally:
        process.kill()
        process.wait()


def test_no_watchdog_once_the_loop_is_stuck(indexer: Indexer, systemd: Systemd) -> None:
    process = systemd.start(indexer, "stuck")
    try:
        assert systemd.next() == "READY=1"
        began = time.monotonic()
        while systemd.next(2.5) == "WATCHDOG=1":
            assert time.monotonic() - began < 15, "it is fed for ever"
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_waiting_for_the_index_is_not_being_stuck(
    pacs: Pacs, receiver: Receiver, indexer: Indexer, systemd: Systemd
) -> None:
    receiver.refuse()
    pacs.insert_outbox_rows(1500)
    process = systemd.start(indexer)
    try:
        assert systemd.next() == "READY=1"
        for _ in range(5):
            assert systemd.next(5) == "WATCHDOG=1"
    finally:
        process.kill()
        process.wait()


# --- the unit --------------------------------------------------------------------------------------------


def _values(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)


def test_the_unit_starts_what_is_there() -> None:
    (command,) = _values("ExecStart")
    words = command.split()
    assert words[0] == "/opt/cdc-indexer/bin/python"
    done = subprocess.run([sys.executable, *words[1:], "--help"], capture_output=True, check=False)
    assert done.returncode == 0
    parser = configparser.RawConfigParser(strict=False)
    parser.read_string(UNIT.read_text())
    assert parser["Service"]["Type"] == "notify"
    assert int(parser["Service"]["WatchdogSec"]) >= 60


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd isn't installed")
def test_systemd_takes_the_unit_and_finds_it_safe(tmp_path: Path) -> None:
    # It looks whether the command is there.
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/cdc-indexer/bin/python", sys.executable))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", judged.stdout)
    assert found is not None, judged.stdout + judged.stderr
    assert float(found[1]) < 3

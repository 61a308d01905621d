"""The program as a user starts it: a process of its own, with its files in a directory of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdc_indexer.model.position import Identity, Position
from cdc_indexer.model.settled import Settled
from cdc_indexer.state._database import connect
from cdc_indexer.state.glance import glance
from tests.pacs import Pacs
from tests.privacy import privacy

KEY = "a-key-for-tests-0123456789"
CENTER = "007"

#: Files of the state directory that hold numbers only.
_STATE_FILES = (
    "checkpoint.json",
    "initial.progress.json",
    "initial.request.json",
    "lock",
    "status.json",
)

#: Options by which a command shows patient data.
_PRINT_PATIENTS = {"--dry-run", "--show-answer"}


def wait_until(condition: Callable[[], object], seconds: float = 30.0, what: str = "") -> None:
    """Waits for a condition; fails with ``what`` when it doesn't come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what or condition}")
        time.sleep(0.02)


@dataclass(frozen=True)
class Checkpoint:
    """What state.sqlite says. ``unverified`` are the UIDs of studies whose view is still to be read."""

    center: str | None
    identity: Identity | None
    position: Position | None
    settled: Settled
    unverified: tuple[str, ...]
    jobs: dict[str, Any]


def read_checkpoint(state_dir: Path) -> Checkpoint | None:
    """Beside the process that writes it, or after its end; None while there is none."""
    seen = glance(state_dir)
    if seen is None:
        return None
    with contextlib.closing(connect(state_dir / "state.sqlite", 500)) as db:
        unverified = tuple(uid for (uid,) in db.execute("SELECT study_iuid FROM unverified"))
        jobs = {name: json.loads(value) for name, value in db.execute("SELECT name, value FROM jobs")}
    return Checkpoint(seen.center, seen.identity, seen.position, seen.settled, unverified, jobs)


def nothing_waits(indexer: Indexer, pacs: Pacs) -> bool:
    """Whether every row of the outbox is settled, and no first version awaits its verification."""
    ids = [row[0] for row in pacs.execute("SELECT id FROM study_service")]
    checkpoint = indexer.checkpoint()
    if checkpoint is None:
        return False
    return not checkpoint.unverified and all(row_id in checkpoint.settled for row_id in ids)


class Indexer:
    """``python -m cdc_indexer`` for one archive and one central index.

    Attributes:
        directory: holds config.json, server.json, the state directory and what the program wrote (log.txt).
        settings: what config.json says; change it and call ``write_files``.
    """

    def __init__(self, directory: Path, pacs: Pacs, url: str, **settings: Any) -> None:
        self.directory = directory
        self.directory.mkdir(parents=True, exist_ok=True)
        self.settings: dict[str, Any] = {
            "database": {
                "host": pacs.server.host,
                "port": str(pacs.server.port),
                "user": pacs.user,
                "password": pacs.password,
                "name": pacs.name,
            },
            "key": KEY,
            "webservice_url": url,
            "stream": {"heartbeat_seconds": 1},
            "monitor": {"listen": None},
        }
        for name, value in settings.items():
            if isinstance(value, dict) and isinstance(self.settings.get(name), dict):
                self.settings[name] = {**self.settings[name], **value}
            else:
                self.settings[name] = value
        self.center = CENTER
        self.write_files()
        self.log_path = directory / "log.txt"
        self.process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        for path in (self.log_path, *(self.state_dir / name for name in _STATE_FILES)):
            privacy.add_file(path)

    @property
    def state_dir(self) -> Path:
        return self.directory / "state"

    @property
    def log(self) -> str:
        """Everything that it has written to stdout and stderr since the beginning."""
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    @property
    def caught_up(self) -> bool:
        """Whether the process that was started last has said so."""
        return "caught up" in self.log[self._log_start :]

    def write_files(self) -> None:
        privacy.add_secret(self.settings.get("key", ""))
        privacy.add_secret(self.settings["database"].get("password", ""))
        (self.directory / "config.json").write_text(json.dumps(self.settings))
        (self.directory / "server.json").write_text(json.dumps({"server": self.center}))

    def checkpoint(self) -> Checkpoint | None:
        """How far the state is; None while there is none."""
        return read_checkpoint(self.state_dir)

    def start(self, *arguments: str, failpoint: str = "") -> None:
        """Starts the service (or another command) and goes on at once."""
        self._log_start = len(self.log)
        environment = {**os.environ, "CDC_INDEXER_FAILPOINT": failpoint}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cdc_indexer", *(arguments or ("run",))],
                cwd=self.directory,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    def run(self, *arguments: str, seconds: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "cdc_indexer", *arguments],
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        with self.log_path.open("a", encoding="utf-8") as log:
            # What prints patient data on purpose.
            log.write(done.stderr if _PRINT_PATIENTS & set(arguments) else done.stdout + done.stderr)
        return done

    def wait(self, seconds: float = 60.0) -> int:
        """Waits for the end of the process; its exit status."""
        assert self.process is not None
        status = self.process.wait(seconds)
        self.process = None
        return status

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Asks it to end; its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        # A line to the database that stalls while it is connected is given up after 60 s.
        return self.wait(90)

    def kill(self) -> None:
        """As a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.wait()

    def close(self) -> None:
        """Ends it whatever it does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    @contextlib.contextmanager
    def running(self, *arguments: str) -> Iterator[Indexer]:
        """The service, for as long as the block takes; it must end with status 0 then."""
        self.start(*arguments)
        try:
            yield self
            assert self.process is not None
            assert self.process.poll() is None, f"it ended by itself:\n{self.log}"
            assert self.stop() == 0, self.log
        finally:
            self.close()

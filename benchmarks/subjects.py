"""What is measured: ours and the plain script, each as a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tests.pacs import Pacs

_ROOT = Path(__file__).resolve().parent.parent
_RIVAL = Path(__file__).resolve().parent / "rival"
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    """Of a process until now."""

    cpu_seconds: float
    peak_mb: float


class Subject:
    """One process that follows an archive's binary log, and its files in ``directory``."""

    name = ""

    def __init__(self, directory: Path, pacs: Pacs, url: str, **delivery: Any) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        #: Of the process, besides this one's.
        self.environment: dict[str, str] = {}
        self._pacs = pacs
        self._process: subprocess.Popen[bytes] | None = None
        self._last = Usage(0.0, 0.0)
        config: dict[str, Any] = {
            "database": {
                "host": "127.0.0.1",
                "port": pacs.server.port,
                "user": pacs.user,
                "password": pacs.password,
                "name": pacs.name,
            },
            "key": "a-key-for-benchmarks",
            "webservice_url": url,
            "monitor": {"listen": None},
            "delivery": delivery,
        }
        (directory / "config.json").write_text(json.dumps(config))
        (directory / "server.json").write_text('{"server": "000"}')

    def prepare(self) -> None:
        """Everything that is committed from now on is for it, also while it isn't running."""
        raise NotImplementedError

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self, *arguments: str) -> None:
        with (self.directory / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                [*self.command(), *arguments],
                cwd=self.directory,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(_ROOT), **self.environment},
            )

    def usage(self) -> Usage:
        """While it runs."""
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"{self.name} ended by itself:\n{(self.directory / 'log.txt').read_text()}")
        process = Path(f"/proc/{self._process.pid}")
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        peak = next(
            line for line in (process / "status").read_text().splitlines() if line.startswith("VmHWM")
        )
        cpu_seconds = (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
        return Usage(cpu_seconds, int(peak.split()[1]) / 1024)

    def running_seconds(self) -> float:
        """CPU seconds of its threads that are there now, to the nanosecond: for what uses little."""
        assert self._process is not None
        tasks = Path(f"/proc/{self._process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def wait(self) -> Usage:
        """Until it ends by itself; what it used, as it was at most a twentieth of a second before."""
        assert self._process is not None
        used = Usage(0.0, 0.0)
        while self._process.poll() is None:
            with suppress(RuntimeError, StopIteration, OSError):  # it has just ended
                used = self.usage()
            time.sleep(0.05)
        if self._process.returncode != 0:
            raise RuntimeError(f"{self.name} failed:\n{(self.directory / 'log.txt').read_text()}")
        return used

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None


class Ours(Subject):
    name = "cdc_indexer"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "cdc_indexer"]

    def start(self, *arguments: str) -> None:
        super().start(*(arguments or ("run",)))

    def prepare(self) -> None:
        self.start()
        self.caught_up()
        self.stop()

    def caught_up(self) -> None:
        """Waits until it says so, for the first time."""
        log = self.directory / "log.txt"
        deadline = time.monotonic() + 60
        while "caught up" not in log.read_text():
            if time.monotonic() > deadline:
                raise RuntimeError(f"not caught up:\n{log.read_text()}")
            time.sleep(0.05)


class Before(Ours):
    """Ours as it was: BEFORE names another checkout."""

    name = "before"

    def __init__(self, directory: Path, pacs: Pacs, url: str, **delivery: Any) -> None:
        super().__init__(directory, pacs, url, **delivery)
        self.environment["PYTHONPATH"] = os.environ["BEFORE"]


class _Script(Subject):
    """It keeps its position in a file."""

    def prepare(self) -> None:
        server = self._pacs.server
        # Its name changed in MySQL 8.4 and MariaDB 10.5.2.
        statement = "SHOW MASTER STATUS" if server.is_mariadb else "SHOW BINARY LOG STATUS"
        file, offset, *_ = server.execute(statement)[0]
        (self.directory / "position.json").write_text(json.dumps({"file": file, "offset": offset}))


class PlainScript(_Script):
    name = "plain script"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "benchmarks.plain_script", "config.json"]


class Zongji(_Script):
    """A rival that is really fast; where Node.js is there, with npm or with what npm once brought."""

    name = "zongji"

    @staticmethod
    def available() -> bool:
        """Whether it can run; says why it can't."""
        if shutil.which("node") is None:
            print("zongji is left out: there is no node", file=sys.stderr)
            return False
        if not (_RIVAL / "node_modules").is_dir():
            npm = shutil.which("npm")
            if (
                npm is None
                or subprocess.run(
                    [npm, "install", "--silent", "--no-audit"], cwd=_RIVAL, check=False
                ).returncode
            ):
                print("zongji is left out: npm can't install it", file=sys.stderr)
                return False
        return True

    def command(self) -> list[str]:
        return ["node", str(_RIVAL / "follow.js"), "config.json"]

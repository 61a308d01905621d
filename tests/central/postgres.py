"""Private PostgreSQL servers for tests: real ones, each in a directory and on a loopback port of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from central_index.postgres_pool import Connection
from central_index.postgres_schema import prepare
from tests.ports import free_port

_START_SECONDS = 60.0
_numbers = count(1)


@cache
def programs() -> Path:
    """Where Debian puts PostgreSQL's own programs, the newest first."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if found:
        return found[-1]
    own = shutil.which("initdb")
    if own is not None:
        return Path(own).parent
    if os.environ.get("CI") == "true":
        raise FileNotFoundError("PostgreSQL isn't there: run tests/setup_servers.sh")
    pytest.skip("PostgreSQL isn't there: run tests/setup_servers.sh")


def _account() -> dict[str, Any]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise KeyError("there is no account that PostgreSQL could run as")


class Cluster:
    """One server with all its databases. ``settings`` as in postgresql.conf."""

    def __init__(self, **settings: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="cdc-pg-"))
        self.data = self.directory / "data"
        self.port = free_port()
        self.settings = settings
        self._account = _account()
        self._process: subprocess.Popen[bytes] | None = None
        self._has_template = False
        self._log = self.directory / "log"
        if self._account:
            os.chown(self.directory, self._account["user"], self._account["group"])

    def initialize(self) -> None:
        options = ("--auth=trust", "--username=tests", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync")
        self.run("initdb", *options, str(self.data))

    def run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [str(programs() / program), *arguments], cwd=self.directory, env={**os.environ, "LC_ALL": "C.UTF-8"},
            capture_output=True, text=True, check=False, **self._account,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout)

    def start(self) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.directory),
            "fsync": "off",
            "shared_buffers": "32MB",
            "max_connections": "60",
            "autovacuum_naptime": "5s",
            **self.settings,
        }
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(programs() / "postgres"), "-D", str(self.data), *arguments],
                cwd=self.directory, stdout=log, stderr=log, start_new_session=True, **self._account,
            )  # fmt: skip
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
            except psycopg.OperationalError:
                assert self._process.poll() is None, self.log
                assert time.monotonic() < deadline, self.log
                time.sleep(0.05)
            else:
                return

    @property
    def log(self) -> str:
        return self._log.read_text()

    def stop(self) -> None:
        """The connections are cut, what was committed is written."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGINT)
            process.wait(60)

    def kill(self) -> None:
        """All its processes at once, as a machine that loses its power."""
        process, self._process = self._process, None
        assert process is not None
        for pid in self._pids_of(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(60)

    def pids(self) -> list[int]:
        """Of all its processes."""
        return self._pids_of(self._process.pid) if self._process is not None else []

    @staticmethod
    def _pids_of(pid: int) -> list[int]:
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]

    def copy_of(self, primary: Cluster) -> None:
        """Becomes its standby, by streaming replication."""
        self.run(
            "pg_basebackup",
            "-D",
            str(self.data),
            "-d",
            primary.url("postgres"),
            "-R",
            "-c",
            "fast",
            "--no-sync",
        )

    def promote(self) -> None:
        self.run("pg_ctl", "promote", "-D", str(self.data))

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    # --- databases ---------------------------------------------------------------------------------------

    def url(self, database: str) -> str:
        return f"postgresql://tests@127.0.0.1:{self.port}/{database}"

    def new_database(self, *, empty: bool = False) -> str:
        """Its address. The tables are copied from a first one, which is quicker than making them."""
        name = f"index_{next(_numbers)}"
        if not empty and not self._has_template:
            self.execute("postgres", "CREATE DATABASE with_tables")
            asyncio.run(_make_tables(self.url("with_tables")))
            self._has_template = True
        template = "" if empty else "TEMPLATE with_tables STRATEGY wal_log"
        self.execute("postgres", f"CREATE DATABASE {name} {template}")
        return self.url(name)

    def execute(self, database: str, script: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(script.encode())
            return cursor.fetchall() if cursor.description else []


async def _make_tables(url: str) -> None:
    async with await Connection.connect(url, autocommit=True) as connection:
        await prepare(connection)


@contextlib.contextmanager
def started(**settings: str) -> Iterator[Cluster]:
    cluster = Cluster(**settings)
    try:
        cluster.initialize()
        cluster.start()
        yield cluster
    finally:
        cluster.remove()

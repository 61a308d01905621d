"""A private MariaDB or MySQL in a directory and on a loopback port of its own; any other server is left alone."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pymysql
from pymysql.cursors import Cursor

from extras.demo.processes import DemoFailed, Process, Signals

_START_SECONDS = 90.0
#: sun_path holds 107 characters.
_LONGEST_SOCKET_PATH = 100
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin:/usr/libexec"

Connection: TypeAlias = "pymysql.connections.Connection[Cursor]"


def free_ports(count: int) -> list[int]:
    """Free TCP ports of the loopback interface, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@dataclass(frozen=True)
class _Programs:
    server: str
    client: str
    #: MariaDB makes a data directory by a program of its own, MySQL by its server.
    install: str | None
    version: str


def _find() -> _Programs:
    for names in (("mariadbd", "mariadb"), ("mysqld", "mysql")):
        server, client = (shutil.which(name, path=_PATH) for name in names)
        if server and client:
            break
    else:
        raise DemoFailed(
            "There is no MariaDB or MySQL here, server and client: apt install mariadb-server-core mariadb-client-core."
        )
    said = subprocess.run(
        [server, "--no-defaults", "--version"], capture_output=True, text=True, check=False
    ).stdout
    found = re.search(r"Ver (\d+\.\d+\.\d+)(-MariaDB)?", said)
    if found is None:
        raise DemoFailed(f"{server} --version doesn't say which version it is.")
    install = shutil.which("mariadb-install-db", path=_PATH) or shutil.which("mysql_install_db", path=_PATH)
    if found[2] and install is None:
        raise DemoFailed("mariadb-install-db isn't there: apt install mariadb-server-core.")
    return _Programs(
        server, client, install if found[2] else None, f"{'MariaDB' if found[2] else 'MySQL'} {found[1]}"
    )


class Server:
    """Use `start_new`; its processes are ended with the ``stack`` that it is given.

    Attributes:
        port: on 127.0.0.1.
        version: such as "MariaDB 10.11.19".
        process: the server's.
    """

    def __init__(self, programs: _Programs, directory: Path, signals: Signals, port: int) -> None:
        self.port = port
        self.version = programs.version
        self._programs = programs
        self._directory = directory
        self._signals = signals
        self._socket = directory / "mysqld.sock"
        # Whoever else is on this machine may connect to a loopback port; and this server may run as root.
        self._root_password = secrets.token_urlsafe(24)
        self.process: Process

    @classmethod
    def start_new(cls, directory: Path, signals: Signals, stack: ExitStack, port: int) -> Server:
        """Makes the data directory below ``directory``, starts the server and waits until it answers.

        Raises DemoFailed with the reason.
        """
        if len(str(directory / "mysqld.sock")) > _LONGEST_SOCKET_PATH:
            raise DemoFailed(f"{directory} is too long for a socket: set TMPDIR to a shorter directory.")
        server = cls(_find(), directory, signals, port)
        server._initialize()
        server._start(stack)
        return server

    def _run_as(self) -> list[str]:
        """Both refuse to run as root unless told so by name."""
        return ["--user=root"] if os.geteuid() == 0 else []

    def _initialize(self) -> None:
        common = ["--no-defaults", f"--datadir={self._directory / 'data'}", *self._run_as()]
        if self._programs.install:
            arguments = ["--auth-root-authentication-method=normal", "--skip-test-db", "--force"]
            command = [self._programs.install, *common, *arguments]
        else:
            command = [
                self._programs.server,
                *common,
                "--initialize-insecure",
                "--skip-log-bin",
                "--secure-file-priv=",
            ]
        # Takes a second or two, and is waited for whatever signal comes: MariaDB's is a shell script, and what that
        # has started would outlive it.
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": _PATH, "LANG": "C.UTF-8"},
            start_new_session=True,
            check=False,
        )
        self._signals.check()
        if done.returncode != 0:
            said = done.stdout.decode(errors="replace").strip().splitlines()[-10:]
            raise DemoFailed("\n    ".join(["The private database can't be made. The last it said:", *said]))

    def _start(self, stack: ExitStack) -> None:
        first_statements = self._directory / "init.sql"
        # Done before anybody can connect. MariaDB makes root for these hosts, too, and nobody with an empty name.
        others = ", ".join(f"'root'@'{host}'" for host in ("127.0.0.1", "::1", socket.gethostname().lower()))
        first_statements.touch(mode=0o600)
        first_statements.write_text(
            f"ALTER USER 'root'@'localhost' IDENTIFIED BY '{self._root_password}';\n"
            f"DROP USER IF EXISTS {others}, ''@'localhost', ''@'{socket.gethostname().lower()}';\n"
        )
        command = [
            self._programs.server,
            "--no-defaults",
            *self._run_as(),
            f"--datadir={self._directory / 'data'}",
            f"--socket={self._socket}",
            f"--pid-file={self._directory / 'mysqld.pid'}",
            f"--init-file={first_statements}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--server-id=1",
            "--log-bin=binlog",
            "--event-scheduler=ON",
            "--innodb-buffer-pool-size=64M",
        ]
        # What an administrator sets on MariaDB; MySQL has both by default.
        command += (
            ["--binlog-format=ROW"] if self._programs.install else ["--mysqlx=OFF", "--secure-file-priv="]
        )
        self.process = Process(
            "The database",
            command,
            self._signals,
            directory=self._directory,
            log_path=self._directory / "mysqld.log",
        )
        stack.callback(self.process.stop)
        deadline = time.monotonic() + _START_SECONDS
        while True:
            self.process.check()
            try:
                self.connect().close()
            except pymysql.err.OperationalError as error:
                if time.monotonic() > deadline:
                    raise self.process.failure(
                        f"didn't answer within {_START_SECONDS:.0f} s ({error})"
                    ) from error
                self._signals.sleep(0.05)
            else:
                return

    def connect(self, database: str | None = None) -> Connection:
        """A connection as root; autocommit is on, texts are UTF-8."""
        return pymysql.connect(
            host="127.0.0.1",
            port=self.port,
            user="root",
            password=self._root_password,
            database=database,
            autocommit=True,
            charset="utf8mb4",
        )

    def run_script(self, script: Path, database: str) -> None:
        """As ``mysql database < script`` does; raises DemoFailed with what the client says."""
        with script.open("rb") as text:
            done = subprocess.run(
                [self._programs.client, "--no-defaults", "--user=root", f"--socket={self._socket}", database],
                stdin=text,
                capture_output=True,
                env={"PATH": _PATH, "LANG": "C.UTF-8", "MYSQL_PWD": self._root_password},
                start_new_session=True,
                check=False,
            )
        if done.returncode != 0:
            raise DemoFailed(
                f"{script.name} can't be applied: {done.stderr.decode(errors='replace').strip()}"
            )

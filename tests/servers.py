"""Private MariaDB and MySQL servers for tests: real ones, each in a directory and on a loopback port of its own.

MariaDB 10.11 is this machine's own where that is the one installed. The others live in folders of whole small
systems, made by tests/setup_servers.sh in the cache directory, and run through chroot.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import pymysql
from pymysql.cursors import Cursor

from tests.ports import free_port

FLAVOURS = ("mariadb-10.11", "mariadb-11.8", "mysql")

#: With this account the archives of the tests log in; the triggers belong to it.
ARCHIVE = "'pacs'@'localhost'"
ARCHIVE_PASSWORD = "the-archives-password-1"

_START_SECONDS = 120.0
_STOP_SECONDS = 60.0
_PURGE_SECONDS = 10.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: sun_path holds 107 characters.
_LONGEST_SOCKET_PATH = 100

Connection: TypeAlias = "pymysql.connections.Connection[Cursor]"


class ServerUnavailable(Exception):
    """This flavour can't be had on this machine; the message says why and what to do."""


class ServerFailed(Exception):
    """A server died, or didn't do what it was told; the message ends with its error log."""


class ScriptFailed(Exception):
    """The command line client ended with an error: what it wrote to stderr. ``output`` is what it had printed."""

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output


def cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cdc_indexer_servers"


@dataclass(frozen=True)
class _Installation:
    """Where the programs of a flavour are: on this machine (root is None), or in the folder `root`."""

    flavour: str
    root: Path | None
    server: str
    client: str

    def command(self, program: str, *arguments: str) -> list[str]:
        if self.root is None:
            return [program, *arguments]
        # In a user namespace of its own an ordinary user may chroot, too. Neither unshare nor chroot forks: the pid stays.
        namespace = [] if os.geteuid() == 0 else ["unshare", "--map-root-user"]
        return [*namespace, "chroot", str(self.root), program, *arguments]

    def run(
        self, program: str, *arguments: str, text: str = "", password: str = ""
    ) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": _PATH, "LANG": "C.UTF-8", "MYSQL_PWD": password}
        return subprocess.run(
            self.command(program, *arguments),
            input=text,
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )

    def new_directory(self) -> Path:
        return Path(tempfile.mkdtemp(prefix="cdc-", dir=self.root / "tmp" if self.root else None))

    def inside(self, path: Path) -> str:
        """`path` as the server sees it."""
        return str(path) if self.root is None else f"/{path.relative_to(self.root)}"

    @property
    def run_as(self) -> list[str]:
        """MariaDB and MySQL refuse to run as root unless told so by name."""
        return ["--user=root"] if self.root is not None or os.geteuid() == 0 else []

    def version(self) -> str:
        """Such as 10.11.19-MariaDB or 9.7.4."""
        try:
            answer = self.run(self.server, "--version")
        except FileNotFoundError as error:
            raise ServerUnavailable(f"{error.filename} isn't there") from error
        found = re.search(r"Ver (\d+\.\d+\.\d+(-MariaDB)?)", answer.stdout)
        if not found:
            raise ServerUnavailable(
                f"{self.server} --version says: {(answer.stderr or answer.stdout).strip()}"
            )
        return found.group(1)


@cache
def _installation(flavour: str) -> tuple[_Installation, str]:
    """The programs of a flavour and their version."""
    remedy = "run tests/setup_servers.sh"
    if flavour == "mysql":
        installation = _Installation(flavour, cache_directory() / "mysql-sid", "mysqld", "mysql")
        wanted = r"8\.[4-9]|9\.|[1-9]\d\."
    else:
        installation = _Installation(flavour, cache_directory() / flavour, "mariadbd", "mariadb")
        wanted = re.escape(flavour.removeprefix("mariadb-")) + r"\."
        if flavour == "mariadb-10.11" and shutil.which("mariadbd", path=_PATH):
            own = _Installation(flavour, None, "mariadbd", "mariadb")
            # An older or newer one of the distribution is better than none, but it isn't what CI promises.
            if re.match(wanted, own.version()) or not (installation.root and installation.root.is_dir()):
                installation = own
                wanted = wanted if os.environ.get("CI") == "true" else r"10\.|11\.|12\."
    if installation.root is not None and not installation.root.is_dir():
        raise ServerUnavailable(f"there is no {installation.root}: {remedy}")
    version = installation.version()
    if not re.match(wanted, version):
        raise ServerUnavailable(f"{installation.server} is {version}, which is not {flavour}: {remedy}")
    return installation, version


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _copy(source: Path, target: Path) -> None:
    """Copies a data directory; its logs are mostly zeros, which take no time and no room when kept as holes."""
    subprocess.run(["cp", "-a", "--sparse=always", "--reflink=auto", f"{source}/.", str(target)], check=True)


def _template(installation: _Installation, version: str) -> Path:
    """An initialized data directory to copy from: making one takes seconds, copying it a fraction of one."""
    templates = cache_directory() / "templates"
    templates.mkdir(parents=True, exist_ok=True)
    template = templates / f"{installation.flavour}-{version}"
    with _locked(templates / ".lock"):
        if template.is_dir():
            return template
        data = installation.new_directory()
        unfinished = Path(tempfile.mkdtemp(dir=templates))
        try:
            common = ["--no-defaults", f"--datadir={installation.inside(data)}", *installation.run_as]
            if installation.server == "mysqld":
                answer = installation.run(
                    "mysqld", *common, "--initialize-insecure", "--skip-log-bin", "--secure-file-priv="
                )
            else:
                answer = installation.run(
                    "mariadb-install-db",
                    *common,
                    "--auth-root-authentication-method=normal",
                    "--skip-test-db",
                    "--force",
                )
            if answer.returncode != 0:
                raise ServerFailed(
                    f"{installation.flavour} can't be initialized: {answer.stdout[-2000:]}{answer.stderr[-2000:]}"
                )
            # It holds the server_uuid, which must differ from server to server.
            (data / "auto.cnf").unlink(missing_ok=True)
            _copy(data, unfinished)
            unfinished.rename(template)
        finally:
            shutil.rmtree(data, ignore_errors=True)
            shutil.rmtree(unfinished, ignore_errors=True)
    return template


class Server:
    """One running server; its `root` has no password. `start_new` makes it; `destroy`, or else the end of Python, ends it.

    Attributes:
        flavour: one of FLAVOURS.
        version: such as "10.11.19-MariaDB" or "9.7.4".
        host, port, unix_socket: where it listens. They stay the same over stop and start.
        extra_arguments: what it is started with besides the usual; a change takes effect with the next start.
        error_log: a Path; appended to by each start.
    """

    host = "127.0.0.1"
    root_password = ""

    def __init__(self, flavour: str, *extra_arguments: str) -> None:
        """Makes the data directory; use `start_new`."""
        self.flavour = flavour
        self._installation, self.version = _installation(flavour)
        template = _template(self._installation, self.version)
        self.extra_arguments = list(extra_arguments)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._data = self._installation.new_directory()
        # Its own directory under the temporary one, for the path of the socket must be short and the cache's may not be.
        self._directory = Path(tempfile.mkdtemp(prefix="cdc-"))
        (self._directory / "data").symlink_to(self._data)
        self.unix_socket = str(self._directory / "data" / "mysqld.sock")
        self.error_log = self._directory / "error.log"
        _live.append(self)
        if len(self.unix_socket) > _LONGEST_SOCKET_PATH:
            raise ServerFailed(
                f"{self.unix_socket} is too long for a socket: set TMPDIR to a shorter directory"
            )
        _copy(template, self._data)

    @classmethod
    def start_new(cls, flavour: str, *extra_arguments: str) -> Server:
        """A running server of its own, empty, with the binary log on.

        `extra_arguments` are given to the server last, so that they win: "--binlog-row-metadata=FULL", "--skip-log-bin".
        Raises ServerUnavailable when this machine has none of this flavour, ServerFailed when it doesn't start.
        """
        server = cls(flavour, *extra_arguments)
        try:
            server.start()
        except BaseException:
            server.destroy()
            raise
        return server

    @property
    def is_mariadb(self) -> bool:
        return self._installation.server == "mariadbd"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the server's process, for signals such as SIGSTOP."""
        if self._process is None:
            raise ServerFailed(f"{self.flavour} isn't running")
        return self._process.pid

    def start(self) -> None:
        """Starts it and waits until it answers. Raises ServerFailed with the end of its error log."""
        inside = self._installation.inside
        # Where servers share one, each that starts removes what the others have in it: "error 6" in the middle of a query.
        (self._data / ".tmp").mkdir(exist_ok=True)
        arguments = [
            "--no-defaults",
            *self._installation.run_as,
            f"--datadir={inside(self._data)}",
            f"--socket={inside(self._data)}/mysqld.sock",
            f"--pid-file={inside(self._data)}/mysqld.pid",
            f"--port={self.port}",
            f"--tmpdir={inside(self._data)}/.tmp",
            "--bind-address=127.0.0.1",
            f"--server-id={self.port}",
            "--log-bin=binlog",
            "--innodb-buffer-pool-size=64M",
        ]
        if self.is_mariadb:
            arguments += ["--binlog-format=ROW"]
        else:
            arguments += ["--secure-file-priv=", "--mysqlx=OFF", "--performance-schema=OFF"]
        for leftover in ("mysqld.sock", "mysqld.sock.lock"):
            (self._data / leftover).unlink(missing_ok=True)
        with self.error_log.open("ab") as log:
            self._process = subprocess.Popen(
                self._installation.command(self._installation.server, *arguments, *self.extra_arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": _PATH, "LANG": "C.UTF-8"},
                # Ctrl-C is for pytest, which then ends the servers.
                start_new_session=True,
            )
        self._wait_until_ready(self._process)

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                self.execute("SELECT 1")
            except pymysql.err.OperationalError as error:
                if process.poll() is not None:
                    raise self._failure(f"ended with status {process.returncode} while it started") from error
                if time.monotonic() > deadline:
                    raise self._failure(f"wasn't ready after {_START_SECONDS:.0f} s ({error})") from error
                time.sleep(0.02)
            else:
                return

    def _failure(self, what: str) -> ServerFailed:
        tail = self.error_log.read_text(errors="replace").splitlines()[-20:]
        return ServerFailed(f"{self.flavour} {what}; its error log ends with:\n" + "\n".join(tail))

    def stop(self) -> None:
        """Shuts it down cleanly and waits for the end. Nothing happens if it isn't running."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise self._failure(f"didn't stop within {_STOP_SECONDS:.0f} s") from None
        self._process = None

    def kill(self) -> None:
        """SIGKILL, and waits for the end. Nothing happens if it isn't running."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """A clean stop and a start."""
        self.stop()
        self.start()

    def destroy(self) -> None:
        """Ends it and removes its files."""
        self.kill()
        shutil.rmtree(self._data, ignore_errors=True)
        shutil.rmtree(self._directory, ignore_errors=True)
        if self in _live:
            _live.remove(self)

    def connect(
        self, database: str | None = None, user: str = "root", password: str = "", **options: Any
    ) -> Connection:
        """A connection over TCP: autocommit is on, texts are utf8mb4. `options` go to pymysql.connect and win."""
        # Not over the unix socket by default: PyMySQL leaves that open when nobody listens, and pytest complains.
        settings: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "autocommit": True,
            "charset": "utf8mb4",
            **options,
        }
        return pymysql.connect(user=user, password=password, database=database, **settings)

    def execute(self, sql: str, args: Any = None, database: str | None = None) -> list[tuple[Any, ...]]:
        """Runs one statement as root in a connection of its own, committed at once. Returns its rows."""
        with contextlib.closing(self.connect(database)) as connection, connection.cursor() as cursor:
            cursor.execute(sql, args)
            return list(cursor.fetchall())

    def run_script(self, sql_text: str, database: str, user: str = "root", password: str = "") -> str:
        """Feeds a script to the server's own command line client, as `mysql database < script` does.

        Returns what it printed. Raises ScriptFailed with what it wrote to stderr.
        """
        arguments = [
            "--no-defaults",
            f"--user={user}",
            f"--socket={self._installation.inside(self._data)}/mysqld.sock",
            database,
        ]
        answer = self._installation.run(
            self._installation.client, *arguments, text=sql_text, password=password
        )
        if answer.returncode != 0:
            raise ScriptFailed(answer.stderr.strip(), answer.stdout)
        return answer.stdout

    def dump(self, database: str, *options: str) -> str:
        """What mysqldump makes of a database. MariaDB's is in another package: its definitions are put together here."""
        if self.is_mariadb:
            return self._definitions(database, "--routines" in options)
        socket = f"{self._installation.inside(self._data)}/mysqld.sock"
        arguments = ("--no-defaults", "--user=root", f"--socket={socket}", "--set-gtid-purged=OFF", *options)
        answer = self._installation.run("mysqldump", *arguments, database)
        if answer.returncode != 0:
            raise ScriptFailed(answer.stderr.strip())
        return answer.stdout

    def _definitions(self, database: str, routines: bool) -> str:
        def made(kind: str, name: str, column: int) -> str:
            return f"{self.execute(f'SHOW CREATE {kind} `{name}`', database=database)[0][column]};;\n"

        tables = self.execute(f"SHOW FULL TABLES FROM `{database}`")
        text = "SET foreign_key_checks = 0;\nDELIMITER ;;\n"
        text += "".join(made("TABLE", name, 1) for name, kind in tables if kind == "BASE TABLE")
        if routines:
            found = self.execute(
                "SELECT ROUTINE_NAME FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = %s", (database,)
            )
            text += "".join(made("PROCEDURE", name, 2) for (name,) in found)
            text += "".join(
                made("EVENT", row[1], 3) for row in self.execute(f"SHOW EVENTS FROM `{database}`")
            )
        text += "".join(made("VIEW", name, 1) for name, kind in tables if kind == "VIEW")
        text += "".join(
            made("TRIGGER", row[0], 2) for row in self.execute(f"SHOW TRIGGERS FROM `{database}`")
        )
        return text.replace(f"`{database}`.", "")

    def purge_binlogs(self) -> bool:
        """Deletes every binary log but a new one; False when the server kept some, because they are being read."""
        self.execute("FLUSH BINARY LOGS")
        variable = "slave_connections_needed_for_purge"  # MariaDB else keeps what no replica has read
        before = self.execute(f"SHOW GLOBAL VARIABLES LIKE '{variable}'")
        if before:
            self.execute(f"SET GLOBAL {variable} = 0")
        try:
            deadline = time.monotonic() + _PURGE_SECONDS
            # MariaDB lets go of a log that was read, and of one that it would need after a crash, a moment later.
            while time.monotonic() < deadline:
                newest = self.execute("SHOW BINARY LOGS")[-1][0]
                self.execute(f"PURGE BINARY LOGS TO '{newest}'")
                if self.execute("SHOW BINARY LOGS")[0][0] == newest:
                    return True
                time.sleep(0.02)
            return False
        finally:
            if before:
                self.execute(f"SET GLOBAL {variable} = %s", (int(before[0][1]),))

    def create_database(self, name: str, charset: str = "latin1", archive: str | None = ARCHIVE) -> None:
        """A database, and the account with which an archive would log in to it (none of its own: None)."""
        self.execute(f"CREATE DATABASE `{name}` CHARACTER SET {charset}")
        if archive is not None:
            self.execute(f"CREATE USER IF NOT EXISTS {archive} IDENTIFIED BY '{ARCHIVE_PASSWORD}'")
            self.execute(f"GRANT ALL ON `{name}`.* TO {archive}")

    def drop_database(self, name: str) -> None:
        self.execute(f"DROP DATABASE IF EXISTS `{name}`")
        for user, host in self.execute("SELECT User, Host FROM mysql.db WHERE Db = %s", (name,)):
            self.execute(f"REVOKE ALL PRIVILEGES ON `{name}`.* FROM '{user}'@'{host}'")


_live: list[Server] = []
_owner = os.getpid()


@atexit.register
def _destroy_all() -> None:
    # A forked child inherits this list, but not the servers.
    if os.getpid() == _owner:
        for server in list(_live):
            server.destroy()

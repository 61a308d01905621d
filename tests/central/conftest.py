"""The reference central index as a process of its own, asked over real sockets."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
import requests
from click.testing import CliRunner

from central_index.cli import main
from tests.central.postgres import Cluster, started
from tests.central.process import connections
from tests.indexer import wait_until
from tests.ports import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
KEYS = {
    "centers": {"000": "key-of-centre-000", "111": "key-of-centre-111"},
    "readers": {"radiology": "key-of-radiology"},
}
WRITER = KEYS["centers"]["000"]
TABLES = ("studies", "requests", "reports", "sessions", "refused_logins", "audit", "audit_patients")
READER = KEYS["readers"]["radiology"]


class Index:
    """One index in ``directory``; what it says on stderr is in `log`."""

    #: The moment, in the database's words.
    now = "unixepoch()"

    def __init__(self, directory: Path, database: str | None = None) -> None:
        self.directory = directory
        #: As --database takes it.
        self.database = database or str(directory / "central.sqlite")
        #: More options, as CENTRAL_*.
        self.options: dict[str, str] = {}
        #: What Python is told to start.
        self.program = ("-m", "central_index")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = directory / "central.log"
        self.session = self._new_session()
        self._process: subprocess.Popen[bytes] | None = None
        self.write_keys(KEYS)
        self.audit_key = directory / "audit.key"
        # The same for all processes on one database.
        self.audit_key.write_text("a-random-key-of-the-tests-0123456789")

    @staticmethod
    def _new_session() -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        return session

    def empty(self) -> None:
        """As a new one: started, without studies, logins and log."""
        self.write_keys(KEYS)
        if self._process is None:
            self.start()
        self.session.close()
        self.session = self._new_session()
        self.log_path.write_text("")
        # The process goes on with its key.
        self.execute(
            "DELETE FROM audit_marks WHERE name <> 'key';"
            + "".join(f"DELETE FROM {table};" for table in TABLES)
        )

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def write_keys(self, keys: dict[str, Any]) -> None:
        (self.directory / "keys.new").write_text(json.dumps(keys))
        (self.directory / "keys.new").replace(self.directory / "keys.json")

    def start(self) -> None:
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *self.program],
                cwd=ROOT,
                env={
                    **os.environ,
                    "CENTRAL_LISTEN": self.url.removeprefix("http://"),
                    "CENTRAL_DATABASE": self.database,
                    "CENTRAL_KEYS": str(self.directory / "keys.json"),
                    "CENTRAL_AUDIT_KEY": str(self.audit_key),
                    **self.options,
                },
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                self.session.get(self.url, timeout=5)
            except requests.ConnectionError:
                assert self._process.poll() is None, self.log
                assert time.monotonic() < deadline, self.log
                time.sleep(0.05)
            else:
                return

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """Its exit status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(signal_number)
        try:
            return process.wait(20)
        finally:
            process.kill()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def connect(self, receive_buffer_bytes: int | None = None) -> socket.socket:
        """A connection of which nothing has been sent yet."""
        connection = socket.socket()
        connection.settimeout(20)
        if receive_buffer_bytes is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        connection.connect(("127.0.0.1", self.port))
        return connection

    def connections(self) -> int:
        """How many it holds open."""
        return connections(self.pid, self.port)

    # --- its database, by hand ----------------------------------------------------------------------------

    def execute(self, script: str) -> None:
        with closing(sqlite3.connect(self.database)) as connection:
            connection.executescript(script)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.database)) as connection:
            return connection.execute(query).fetchall()

    def waiting_transactions(self) -> int:
        """That are open, with nothing to do: a file that is only read is locked for nobody."""
        return 0

    def forget(self) -> None:
        """Sees to it that what is too old is gone: each write takes some of it along."""

    def backup(self) -> Path:
        """Of a stopped one."""
        copy = self.directory / "backup.sqlite"
        shutil.copy(self.database, copy)
        return copy

    def restore(self, copy: Path) -> None:
        for suffix in ("-wal", "-shm"):
            Path(f"{self.database}{suffix}").unlink(missing_ok=True)
        shutil.copy(copy, self.database)

    # --- what is asked -----------------------------------------------------------------------------------

    def ask(self, method: str, path: str, key: str | None = None, **options: Any) -> requests.Response:
        headers = options.pop("headers", {})
        if key is not None:
            headers["X-Api-Key"] = key
        return self.session.request(method, f"{self.url}{path}", headers=headers, timeout=20, **options)

    def post(self, document: Any, idempotency_key: str | None = None, key: str = WRITER) -> requests.Response:
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        return self.ask("POST", "/api/v1/register", key, json=document, headers=headers)

    def studies(self, **filters: Any) -> list[dict[str, Any]]:
        answer = self.ask("GET", "/api/v1/studies", READER, params=filters)
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["studies"]
        return found


class PostgresIndex(Index):
    """One with a database of its own in the cluster that the tests share."""

    now = "extract(epoch FROM now())"

    def __init__(self, directory: Path, cluster: Cluster) -> None:
        super().__init__(directory, cluster.new_database())
        self._cluster = cluster
        self._name = self.database.rpartition("/")[2]

    def execute(self, script: str) -> None:
        self._cluster.execute(self._name, script)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self._cluster.execute(self._name, query)

    def waiting_transactions(self) -> int:
        (row,) = self.rows(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND state = 'idle in transaction' AND state_change < clock_timestamp() - interval '0.3 s'"
        )
        return int(row[0])

    def forget(self) -> None:
        """It does so when it starts, and every minute."""
        self.stop()
        self.start()
        wait_until(
            lambda: self.rows("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)],
            10,
            "busy",
        )

    def backup(self) -> Path:
        copy = self.directory / "backup"
        copy.write_text(f"{self._name}_backup")
        self._cluster.execute("postgres", f"CREATE DATABASE {self._name}_backup TEMPLATE {self._name}")
        return copy

    def restore(self, copy: Path) -> None:
        self._cluster.execute("postgres", f"DROP DATABASE {self._name} WITH (FORCE)")
        self._cluster.execute("postgres", f"CREATE DATABASE {self._name} TEMPLATE {copy.read_text()}")


def command(directory: Path, *arguments: str, said: str = "") -> subprocess.CompletedProcess[str]:
    """What `central-index` does and says in ``directory``, in this process: another one takes ten times as long to start."""
    umask, before = os.umask(0o022), Path.cwd()
    os.chdir(directory)
    try:
        done = CliRunner().invoke(main, arguments, input=said, prog_name="central-index")
    finally:
        os.chdir(before)
        os.umask(umask)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def study(number: int = 1, **values: Any) -> dict[str, Any]:
    """A good study's document."""
    return {
        "patient_pk": 17,
        "patient_id": "26267267-K",
        "patient_name": "PEÑA^JOSÉ",
        "study_pk": number,
        "study_iuid": f"1.2.840.{number}",
        "study_datetime": "2026-03-01 09:30:00",
        "study_description": "CT THORAX",
        "study_modality": "CT\\SR",
        "study_series": 3,
        "study_instances": 412,
        "center": "000",
        **values,
    }


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest) -> str:
    """Each test of the index runs on each of its stores."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def _clusters() -> Iterator[Callable[[], Cluster]]:
    """The one that the tests of this process share; started for the first that needs it."""
    with ExitStack() as stack:
        found: list[Cluster] = []

        def cluster() -> Cluster:
            if not found:
                found.append(stack.enter_context(started()))
            return found[0]

        yield cluster


@pytest.fixture(scope="session")
def _running(
    tmp_path_factory: pytest.TempPathFactory, _clusters: Callable[[], Cluster]
) -> Iterator[Callable[[str], Index]]:
    """One for each engine, which the tests have one after the other: starting one takes longer than most tests."""
    with _maker(tmp_path_factory.mktemp("running")) as make:
        found: dict[str, Index] = {}

        def get(engine: str) -> Index:
            if engine not in found:
                found[engine] = make(None if engine == "sqlite" else _clusters())
            found[engine].empty()
            return found[engine]

        yield get


@pytest.fixture
def index(engine: str, _running: Callable[[str], Index]) -> Index:
    """A started index, empty."""
    return _running(engine)


@pytest.fixture(scope="module")
def shared_index(
    tmp_path_factory: pytest.TempPathFactory, engine: str, _clusters: Callable[[], Cluster]
) -> Iterator[Index]:
    """A started index for many tests that leave nothing in it."""
    with _maker(tmp_path_factory.mktemp("shared")) as make:
        one = make(None if engine == "sqlite" else _clusters())
        one.start()
        yield one


@pytest.fixture
def cluster(_clusters: Callable[[], Cluster]) -> Cluster:
    return _clusters()


class MakeIndex(Protocol):
    def __call__(self, cluster: Cluster | None = None, database: str | None = None) -> Index: ...


@pytest.fixture(scope="module")
def _make_indexes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeIndex]:
    """As `make_index`, for all tests of a module."""
    with _maker(tmp_path_factory.mktemp("indexes")) as make:
        yield make


@pytest.fixture
def make_index(tmp_path: Path) -> Iterator[MakeIndex]:
    """Gives an index that isn't started yet: on a file, on a database of its own in ``cluster``, or on ``database``."""
    with _maker(tmp_path) as make:
        yield make


@contextmanager
def _maker(directory: Path) -> Iterator[MakeIndex]:
    made: list[Index] = []

    def make(cluster: Cluster | None = None, database: str | None = None) -> Index:
        own = directory / f"index{len(made)}"
        own.mkdir()
        made.append(Index(own, database) if cluster is None else PostgresIndex(own, cluster))
        return made[-1]

    try:
        yield make
    finally:
        for one in made:
            one.stop()
            one.session.close()

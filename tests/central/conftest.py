"""The reference central index as a process of its own, asked over real sockets."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.ports import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
KEYS = {
    "centers": {"000": "key-of-centre-000", "111": "key-of-centre-111"},
    "readers": {"radiology": "key-of-radiology"},
}
WRITER = KEYS["centers"]["000"]
READER = KEYS["readers"]["radiology"]


class Index:
    """One index in ``directory``; what it says on stderr is in `log`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = f"http://127.0.0.1:{free_port()}"
        self.log_path = directory / "central.log"
        self.session = requests.Session()
        self.session.trust_env = False
        self._process: subprocess.Popen[bytes] | None = None
        self.write_keys(KEYS)

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def write_keys(self, keys: dict[str, Any]) -> None:
        (self.directory / "keys.new").write_text(json.dumps(keys))
        (self.directory / "keys.new").replace(self.directory / "keys.json")

    def start(self) -> None:
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "central_index"],
                cwd=ROOT,
                env={
                    **os.environ,
                    "CENTRAL_LISTEN": self.url.removeprefix("http://"),
                    "CENTRAL_DATABASE": str(self.directory / "central.sqlite"),
                    "CENTRAL_KEYS": str(self.directory / "keys.json"),
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

    # --- its database, by hand ----------------------------------------------------------------------------

    #: The moment, in the database's words.
    now = "unixepoch()"

    @property
    def _database(self) -> Path:
        return self.directory / "central.sqlite"

    def execute(self, script: str) -> None:
        with closing(sqlite3.connect(self._database)) as connection:
            connection.executescript(script)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self._database)) as connection:
            return connection.execute(query).fetchall()

    def forget(self) -> None:
        """Sees to it that what is too old is gone: each write takes some of it along."""

    def backup(self) -> Path:
        """Of a stopped one."""
        copy = self.directory / "backup.sqlite"
        shutil.copy(self._database, copy)
        return copy

    def restore(self, copy: Path) -> None:
        for suffix in ("-wal", "-shm"):
            Path(f"{self._database}{suffix}").unlink(missing_ok=True)
        shutil.copy(copy, self._database)

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


@pytest.fixture
def make_index(tmp_path: Path) -> Iterator[Callable[[], Index]]:
    """Gives an index that isn't started yet."""
    with _maker(tmp_path) as make:
        yield make


@pytest.fixture
def index(make_index: Callable[[], Index]) -> Index:
    """A started index, empty."""
    one = make_index()
    one.start()
    return one


@pytest.fixture(scope="module")
def shared_index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """A started index for many tests that leave nothing in it."""
    with _maker(tmp_path_factory.mktemp("shared")) as make:
        one = make()
        one.start()
        yield one


@contextmanager
def _maker(directory: Path) -> Iterator[Callable[[], Index]]:
    made: list[Index] = []

    def make() -> Index:
        own = directory / f"index{len(made)}"
        own.mkdir()
        made.append(Index(own))
        return made[-1]

    try:
        yield make
    finally:
        for one in made:
            one.stop()
            one.session.close()

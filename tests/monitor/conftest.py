"""What the tests of logs, metrics and status page share: a Watch as `run` has it, and pages fetched over real sockets."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from cdc_indexer.flow.observer import Sample
from cdc_indexer.model.settings import Settings, load_settings
from cdc_indexer.monitor.watch import Watch
from tests.ports import free_port
from tests.privacy import privacy

SAMPLE = Sample(
    position="mysql-bin.000417:73400211",
    server="3e11fa47-71ca-11e1-9e33-c80aa9429562",
    settled_until=datetime(2026, 3, 1, 9, 30),
    lag_seconds=0.0,
    lag_bytes=0,
    queued=0,
    waiting=0,
    parked=0,
    parked_reasons=(),
    checkpoint_at=None,
    rows_read=0,
    bytes_read=0,
    clock_difference_seconds=0.0,
    idle_seconds=0.1,
    blocked=False,
)


def sample(**changes: Any) -> Sample:
    return SAMPLE._replace(**changes)


@dataclass
class Site:
    """A status page that is there."""

    watch: Watch
    settings: Settings
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str = "/", **headers: str) -> requests.Response:
        return fetch(f"{self.url}{path}", **headers)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def say(self, request: bytes) -> bytes:
        """Sends bytes as they are; everything that comes back."""
        with self.connect() as connection:
            connection.sendall(request)
            answer = b""
            while part := connection.recv(65536):
                answer += part
        return answer


def fetch(url: str, **headers: str) -> requests.Response:
    """GET, noted for the search for secrets and patients."""
    answer = requests.get(url, headers=headers, timeout=10, allow_redirects=False)
    privacy.add_text(url, answer.content)
    return answer


def make_settings(directory: Path, **changes: Any) -> Settings:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "state").mkdir(exist_ok=True)
    settings = {
        "database": {"host": "127.0.0.1", "user": "indexer", "password": "secret-0123", "name": "pacsdb"},
        "key": "a-key-0123456789",
        "webservice_url": "https://index.example.org/api/v1/register",
        **changes,
    }
    privacy.add_secret("secret-0123")
    privacy.add_secret("a-key-0123456789")
    (directory / "config.json").write_text(json.dumps(settings))
    (directory / "server.json").write_text('{"server": "104"}')
    return load_settings(directory / "config.json", {})


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    made: list[Watch] = []

    def make(**changes: Any) -> Site:
        port = free_port()
        settings = make_settings(tmp_path, monitor={"listen": f"127.0.0.1:{port}"}, **changes)
        watch = Watch()
        made.append(watch)
        watch.started(settings)
        privacy.add_file(settings.state_dir / "status.json")
        return Site(watch, settings, port)

    yield make
    for watch in made:
        watch.stopped(None)


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()

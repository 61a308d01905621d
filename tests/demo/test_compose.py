"""docker-compose.yml, as far as it goes without Docker: its scripts, files, commands and settings on a real MySQL."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.indexer import wait_until
from tests.ports import free_port
from tests.servers import Server

ROOT = Path(__file__).resolve().parent.parent.parent
COMPOSE = (ROOT / "docker-compose.yml").read_text()
FILES = ROOT / "extras/compose"


def test_every_file_that_is_named_is_there() -> None:
    named = re.findall(r"\./([\w./-]+)", COMPOSE)
    assert len(named) >= 9
    assert [name for name in named if not (ROOT / name).exists()] == []


def _volumes() -> dict[str, dict[str, str]]:
    """Of each service: what is mounted where."""
    services = re.split(
        r"^  (\w+):$", COMPOSE.partition("\nservices:\n")[2].partition("\nsecrets:\n")[0], flags=re.MULTILINE
    )
    return {
        name: {where: what for what, where in re.findall(r"- (\S+?):(/[^:\s]+)", text)}
        for name, text in zip(services[1::2], services[2::2], strict=True)
    }


@pytest.mark.parametrize(
    ("service", "target"), [("central", "central"), ("region", "central"), ("indexer", "indexer")]
)
def test_what_a_program_writes_and_reads_again_outlives_its_container(service: str, target: str) -> None:
    """Where it works lies in a volume with a name, and its settings lie in a directory, so that they can be replaced."""
    build = re.split(r"^FROM \S+ AS (\w+)$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    text = dict(zip(build[1::2], build[2::2], strict=True))[target]
    mounted = _volumes()[service]
    (kept,) = re.findall(r"^VOLUME (\S+)$", text, re.MULTILINE)
    named = re.findall(r"^  (\w+):$", COMPOSE.partition("\nvolumes:\n")[2], re.MULTILINE)
    assert mounted[kept] in named
    others = [what for where, what in mounted.items() if where != kept]
    assert others
    assert [what for what in others if not (ROOT / what).is_dir()] == []
    if target == "central":
        # audit.key is made in the working directory.
        assert f"WORKDIR {kept}\n" in text
        (keys,) = re.findall(r"CENTRAL_KEYS=(\S+)", text)
        assert (ROOT / mounted[str(Path(keys).parent)] / Path(keys).name).is_file()


def test_what_the_dockerfile_copies_isnt_ignored() -> None:
    copied = re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {name for names in copied for name in names.split()} == kept


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    with ExitStack() as stack:

        def start(module: str, log_path: Path, **environment: str) -> subprocess.Popen[bytes]:
            with log_path.open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", *module.split()],
                    cwd=ROOT,
                    env={**os.environ, **environment},
                    stdout=log,
                    stderr=log,
                )
            stack.callback(process.wait, 30)
            stack.callback(process.terminate)
            return process

        yield start


def test_its_services_do_the_demo(
    flavour: str,
    new_server: Callable[..., Server],
    started: Callable[..., subprocess.Popen[bytes]],
    tmp_path: Path,
) -> None:
    if flavour != "mysql":
        pytest.skip("it names MySQL's image")
    server = new_server("--binlog-expire-logs-seconds=604800")
    server.create_database("pacsdb", charset="utf8mb4", archive=None)
    scripts = re.findall(r"\./([\w./-]+):/docker-entrypoint-initdb\.d/(\S+):ro", COMPOSE)
    for path, _ in sorted(scripts, key=lambda pair: pair[1]):
        server.run_script((ROOT / path).read_text(), "pacsdb")
    password = (FILES / "root_password").read_text().strip()
    server.execute("CREATE USER 'compose_root'@'%%' IDENTIFIED BY %s", (password,))
    server.execute("GRANT ALL ON *.* TO 'compose_root'@'%'")

    address = f"127.0.0.1:{free_port()}"
    started(
        "extras.central",
        tmp_path / "central.log",
        CENTRAL_LISTEN=address,
        CENTRAL_DATABASE=str(tmp_path / "central.sqlite"),
        CENTRAL_KEYS=str(FILES / "central/keys.json"),
    )
    archive = started(
        "extras.demo.archive",
        tmp_path / "archive.log",
        ARCHIVE_HOST="127.0.0.1",
        ARCHIVE_PORT=str(server.port),
        ARCHIVE_USER="compose_root",
        ARCHIVE_PASSWORD_FILE=str(FILES / "root_password"),
        ARCHIVE_NAME="pacsdb",
    )
    indexer = started(
        f"cdc_indexer --config {FILES / 'indexer/config.json'} run",
        tmp_path / "indexer.log",
        CDC_INDEXER_STATE_DIR=str(tmp_path / "state"),
        CDC_INDEXER_DATABASE__HOST="127.0.0.1",
        CDC_INDEXER_DATABASE__PORT=str(server.port),
        CDC_INDEXER_DATABASE__PASSWORD_FILE=str(FILES / "indexer_password"),
        CDC_INDEXER_KEY_FILE=str(FILES / "indexer_key"),
        CDC_INDEXER_WEBSERVICE_URL=f"http://{address}/api/v1/register",
        CDC_INDEXER_MONITOR__LISTEN=f"127.0.0.1:{free_port()}",
    )

    reader = json.loads((FILES / "central/keys.json").read_text())["readers"]["demo"]

    def index() -> dict[str, Any]:
        answer = requests.get(f"http://{address}/api/v1/studies", headers={"X-Api-Key": reader}, timeout=10)
        found: dict[str, Any] = answer.json()
        return found

    def logs() -> str:
        return "".join(path.read_text() for path in tmp_path.glob("*.log"))

    wait_until(lambda: _reachable(address), 30, "the index doesn't answer")
    wait_until(lambda: index()["total"] >= 2_510, 60, "the studies don't arrive")
    assert archive.poll() is None, logs()
    archive.terminate()
    assert archive.wait(30) == 0, logs()
    ((count,),) = server.execute("SELECT COUNT(*) FROM study", database="pacsdb")
    wait_until(lambda: index()["total"] == count, 30, "the last studies don't arrive")
    indexer.terminate()
    assert indexer.wait(30) == 0, logs()
    assert "Traceback" not in logs()


def _reachable(address: str) -> bool:
    try:
        requests.get(f"http://{address}/", timeout=10).close()
    except requests.ConnectionError:
        return False
    return True

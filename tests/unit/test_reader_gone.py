"""Whoever reads a command's output may go before its end: ``status | head -1``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ports import free_port


@pytest.mark.parametrize("command", [["status"], ["check"], ["parked", "list"]], ids=" ".join)
def test_it_ends_as_failed_and_says_nothing(tmp_path: Path, command: list[str]) -> None:
    nobody = free_port()
    database = {"host": "127.0.0.1", "port": nobody, "user": "u", "password": "p", "name": "d"}
    settings = {"database": database, "key": "k", "webservice_url": f"http://127.0.0.1:{nobody}/"}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "server.json").write_text('{"server": "000"}')
    reading, writing = os.pipe()
    os.close(reading)
    # Unbuffered, each write would fail at once.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "cdc_indexer", "--config", str(tmp_path / "config.json"), *command],
            stdout=writing,
            stderr=subprocess.PIPE,
            env=environment,
            check=False,
        )
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, b"")

"""Somebody on the machine who can read what the service writes or sees its processes; what a log and a terminal show."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc_indexer.model.errors import StateError, StorageError
from cdc_indexer.state import requests
from cdc_indexer.state.checkpoint_copy import CheckpointCopy
from cdc_indexer.state.store import Store
from tests.indexer import KEY, Indexer, wait_until
from tests.pacs import Pacs
from tests.receiver import Answer, Receiver

NAME, PATIENT_ID = "CASTAÑEDA^ITZEL", "19283746-5"

pytestmark = pytest.mark.one_server

#: The program as if it didn't set its own umask: each file's mode must be right by itself.
_WITHOUT_UMASK = """
import os
from cdc_indexer import cli
os.umask(0)
os.umask = lambda mask: 0
cli.main()
"""

TRICKS = '\x1b[2J\x1b]0;owned\x07\r\n{"level": "info", "event": "forged"}\nforged \u202e\x9b31m'


@pytest.fixture
def indexer(pacs: Pacs, receiver: Receiver, tmp_path: Path) -> Iterator[Indexer]:
    one = Indexer(tmp_path / "indexer", pacs, receiver.url, delivery={"settle_seconds": 0.2})
    yield one
    one.close()


@pytest.fixture
def used(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> Indexer:
    """A state directory in which everything is that can be: a checkpoint, a parked study, `initial`."""
    receiver.for_studies(["1.2.3.666"], Answer(422, TRICKS.encode()))
    with indexer.log_path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _WITHOUT_UMASK, "run"], cwd=indexer.directory, stdout=log, stderr=log
        )
    try:
        wait_until(lambda: indexer.caught_up, what="caught up")
        for uid in ("1.2.3.1", "1.2.3.666", "1.2.3.2"):
            pacs.store_study(uid, patient_id=PATIENT_ID, patient_name=NAME)
        receiver.wait_for(lambda accepted: len({uid for entry in accepted for uid in entry.study_iuids}) == 2)
        wait_until(lambda: "parked" in indexer.log, what="parked")
        assert indexer.run("initial").returncode == 0
        # Files that are there only while it runs, such as journals of SQLite, are looked at now.
        modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in indexer.state_dir.iterdir()}
        assert {"checkpoint.json", "state.sqlite", "state.sqlite-wal", "lock"} <= set(modes)
        assert {name: oct(mode) for name, mode in modes.items() if mode & 0o077} == {}
        command_line = Path(f"/proc/{process.pid}/cmdline").read_text()
        assert KEY not in command_line
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    return indexer


def test_only_our_account_can_read_the_state_and_it_holds_no_secret(used: Indexer) -> None:
    assert stat.S_IMODE(used.state_dir.stat().st_mode) == 0o700
    for path in used.state_dir.iterdir():
        assert stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0, path
        content = path.read_bytes()
        assert KEY.encode() not in content, path
        assert b'"secret"' not in content, path
        # A parked study is kept whole, so that it can be sent again: there, and nowhere else.
        if not path.name.startswith("state.sqlite"):
            assert NAME.encode() not in content, path
            assert PATIENT_ID.encode() not in content, path


def test_an_answer_full_of_tricks_forges_no_line_and_moves_no_cursor(used: Indexer) -> None:
    lines = [json.loads(line) for line in used.log.splitlines()]
    assert "parked" in {line["event"] for line in lines}
    assert "owned" not in used.log
    assert "forged" not in used.log
    for arguments in (
        ["parked", "list"],
        ["parked", "list", "--show-answer"],
        ["parked", "list", "--show-answer", "--json"],
    ):
        shown = used.run(*arguments)
        assert shown.returncode == 0
        assert all(character.isprintable() or character == "\n" for character in shown.stdout)
        assert not any(line.startswith(("forged", '{"level"')) for line in shown.stdout.splitlines())
        assert ("owned" in shown.stdout) == ("--show-answer" in arguments)
        assert NAME not in shown.stdout


def test_the_environment_gives_secrets_by_file(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    """As containers and systemd's credentials do: neither a file that others read, nor the environment, holds them."""
    for name, value in (("password", pacs.password), ("key", KEY)):
        path = indexer.directory / f"{name}.secret"
        path.write_text(value + "\n")
        path.chmod(0o600)
    indexer.settings.pop("key")
    indexer.settings["database"].pop("password")
    indexer.write_files()
    pacs.store_study("1.2.3.4")
    done = subprocess.run(
        [sys.executable, "-m", "cdc_indexer", "run", "--until-caught-up"],
        cwd=indexer.directory,
        env={
            **os.environ,
            "CDC_INDEXER_DATABASE__PASSWORD_FILE": "password.secret",
            "CDC_INDEXER_KEY_FILE": "key.secret",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert receiver.study_iuids() == ["1.2.3.4"]
    assert KEY not in done.stdout + done.stderr


def test_a_link_in_the_state_directory_is_not_followed(tmp_path: Path) -> None:
    """Where the directory was made by somebody else, for everybody."""
    target = tmp_path / "target"
    target.write_text("somebody's")
    state = tmp_path / "state"
    state.mkdir()
    for name in ("checkpoint.new", "initial.request.new", "state.sqlite.new"):
        (state / name).symlink_to(target)
    CheckpointCopy(state, {}).write(now=True)
    assert not (state / "checkpoint.json").exists()
    with pytest.raises(StorageError):
        requests.write(state, requests.REQUEST, {})
    Store(state).close()
    assert target.read_text() == "somebody's"
    (state / "state.sqlite").unlink()
    (state / "state.sqlite").symlink_to(target)
    with pytest.raises(StateError):
        Store(state)
    assert target.read_text() == "somebody's"

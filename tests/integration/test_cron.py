"""The scripts for cron, as cron starts them: next to no environment, another directory; and the shell's completion."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.indexer import Indexer, wait_until
from tests.pacs import Pacs
from tests.receiver import Receiver

pytestmark = pytest.mark.one_server

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def indexer(pacs: Pacs, receiver: Receiver, tmp_path: Path) -> Iterator[Indexer]:
    one = Indexer(tmp_path / "indexer", pacs, receiver.url)
    yield one
    one.close()


def cron(script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [script, *map(str, arguments)],
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "HOME": "/root", "SHELL": "/bin/sh"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", ["dicom_indexer.sh", "heading_indexer.sh"])
def test_both_scripts_send_what_is_new_and_say_nothing(
    name: str, pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    (indexer.directory / "venv/bin").mkdir(parents=True)
    (indexer.directory / "venv/bin/python").symlink_to(sys.executable)
    # A link to the python of a virtual environment isn't one by itself.
    (indexer.directory / "venv/pyvenv.cfg").write_text((Path(sys.prefix) / "pyvenv.cfg").read_text())
    (indexer.directory / "venv/lib").symlink_to(Path(sys.prefix) / "lib")
    for uid in ("1.2.3", "1.2.4"):
        pacs.store_study(uid)
        done = cron(ROOT / "extras" / name, indexer.directory)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert receiver.study_iuids() == ["1.2.3", "1.2.4"]
    # While another run is active there is nothing to do, and nothing to say.
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        done = cron(ROOT / "extras" / name, indexer.directory)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    receiver.refuse()
    pacs.store_study("1.2.5")
    done = cron(ROOT / "extras" / name, indexer.directory)
    assert done.returncode == 1
    assert "can't be reached" in done.stderr


def test_what_no_trigger_recorded_is_found_by_cron_too(
    pacs: Pacs, receiver: Receiver, indexer: Indexer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass is due, each run does a part of it, and the next goes on; what is stored meanwhile isn't held up."""
    monkeypatch.setenv("CDC_INDEXER_TEST_SWEEP_PART", "2")
    monkeypatch.setenv("CDC_INDEXER_TEST_ONCE_PASS_SECONDS", "0")
    indexer.settings["delivery"] = {"settle_seconds": 0.2}
    indexer.settings["reconcile"] = {"every_hours": 0}
    indexer.write_files()
    assert indexer.run("run", "--until-caught-up").returncode == 0
    assert "a comparison begins" not in indexer.log
    pacs.execute("DROP TRIGGER indexer_study_insert")
    pacs.execute("DROP TRIGGER indexer_study_update")
    for number in range(5):
        pacs.store_study(f"1.{number}")
    indexer.settings["reconcile"] = {"every_hours": 0.00001}
    indexer.write_files()
    for sent in (2, 4, 5):
        assert indexer.run("run", "--until-caught-up").returncode == 0
        assert len(receiver.study_iuids()) == sent
    assert indexer.log.count("a comparison goes on") == 2
    assert indexer.log.count("a comparison has ended") == 1
    last = json.loads(indexer.run("status", "--json").stdout)["last_pass"]
    assert (last["compared"], last["missing"], last["healed"]) == (5, 5, 5)


def test_what_may_be_gone_is_left_to_a_later_run(
    pacs: Pacs, receiver: Receiver, indexer: Indexer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits ten minutes in cron: when it was seen first is remembered."""
    indexer.settings["delivery"] = {"settle_seconds": 0.2, "deletes": "delete"}
    indexer.settings["reconcile"] = {"every_hours": 0}
    indexer.write_files()
    stored = [pacs.store_study(f"1.{number}") for number in range(3)]
    assert indexer.run("run", "--until-caught-up").returncode == 0
    pacs.execute("DROP TRIGGER indexer_study_delete")
    pacs.delete_study(stored[1])
    indexer.settings["reconcile"] = {"every_hours": 0.00001}
    indexer.write_files()
    for _ in range(2):
        assert indexer.run("run", "--until-caught-up", seconds=60).returncode == 0
        assert sorted(receiver.holds()) == ["1.0", "1.1", "1.2"]
    assert "a comparison has ended" not in indexer.log
    # What was stored meanwhile isn't gone.
    pacs.store_study("1.9")
    monkeypatch.setenv("CDC_INDEXER_TEST_GONE_AFTER_SECONDS", "0.2")
    assert indexer.run("run", "--until-caught-up", seconds=60).returncode == 0
    assert sorted(receiver.holds()) == ["1.0", "1.2", "1.9"]
    assert indexer.log.count("a comparison goes on") == 2
    last = json.loads(indexer.run("status", "--json").stdout)["last_pass"]
    assert (last["compared"], last["extra"], last["healed"]) == (2, 1, 1)


def test_each_run_begins_where_everything_is_settled(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    """Else each reads the whole outbox: also on a server whose log moves on between two looks at it."""
    indexer.settings["delivery"] = {"settle_seconds": 0.2}
    indexer.write_files()
    untils = []
    for number in range(3):
        pacs.store_study(f"1.{number}")
        age = 60 * (4 - number)
        pacs.execute(
            "UPDATE study_service SET recorded_at = UTC_TIMESTAMP(6) - INTERVAL %s MINUTE WHERE study_pk ="
            " (SELECT MAX(pk) FROM study)",
            (age,),
        )
        assert indexer.run("run", "--until-caught-up").returncode == 0
        checkpoint = indexer.checkpoint()
        assert checkpoint is not None
        untils.append(checkpoint.settled.until)
    assert receiver.study_iuids() == ["1.0", "1.1", "1.2"]
    assert untils[0] > datetime(2020, 1, 1)
    assert untils == sorted(set(untils))


def test_the_old_clients_place(tmp_path: Path) -> None:
    """/srv/dicom_indexer: the script in extras, config.json above it, whatever link cron calls it by."""
    (tmp_path / "extras").mkdir()
    for name in ("dicom_indexer.sh", "heading_indexer.sh"):
        shutil.copy(ROOT / "extras" / name, tmp_path / "extras")
    (tmp_path / "venv/bin").mkdir(parents=True)
    python = tmp_path / "venv/bin/python"
    python.write_text('#!/bin/sh\necho "$PWD $@ $CDC_INDEXER_LOG__LEVEL"\n')
    python.chmod(0o755)
    (tmp_path / "link").symlink_to(tmp_path / "extras/heading_indexer.sh")
    for script in ("extras/dicom_indexer.sh", "link"):
        done = cron(tmp_path / script)
        assert (
            done.stdout == f"{tmp_path} -m cdc_indexer --config config.json run --until-caught-up warning\n"
        )


def test_completion_of_the_shell() -> None:
    """The command of the README, and what it makes, in a real bash."""
    readme = (ROOT / "README.md").read_text()
    command = "_CDC_INDEXER_COMPLETE=bash_source cdc-indexer"
    assert command in readme
    script = f"""
set -e
source <({command})
COMP_WORDS=(cdc-indexer che) COMP_CWORD=1
_cdc_indexer_completion cdc-indexer
echo "${{COMPREPLY[@]}}"
COMPREPLY=() COMP_WORDS=(cdc-indexer parked re) COMP_CWORD=2
_cdc_indexer_completion cdc-indexer
echo "${{COMPREPLY[@]}}"
complete -p cdc-indexer
"""
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second, registered = done.stdout.splitlines()
    assert (first, second) == ("check", "retry")
    assert "-F _cdc_indexer_completion" in registered

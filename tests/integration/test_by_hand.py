"""What an administrator does by hand, beside a running `run` and without one: resend, pause, resume, sql."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.indexer import Indexer, wait_until
from tests.pacs import Pacs
from tests.receiver import Receiver

pytestmark = pytest.mark.one_server

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def indexer(pacs: Pacs, receiver: Receiver, tmp_path: Path) -> Iterator[Indexer]:
    one = Indexer(tmp_path / "indexer", pacs, receiver.url, delivery={"settle_seconds": 0.2})
    yield one
    one.close()


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside run"])
def test_chosen_studies_are_sent_again_under_a_new_key(
    beside: bool, pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    for number in range(4):
        pacs.store_study(f"1.{number}", patient_id=f"{number % 2}-K")
    assert indexer.run("initial").returncode == 0
    if beside:
        indexer.start()
        wait_until(lambda: indexer.caught_up, what="caught up")
    before = receiver.accepted()
    assert len(before) == 4
    done = indexer.run("resend", "--patient-id", "0-K", "--dry-run")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "2 studies would be sent again.")
    assert len(receiver.accepted()) == 4
    done = indexer.run("resend", "--patient-id", "0-K", "--study-iuid", "1.3", "--study-iuid", "9.9")
    assert done.returncode == 1
    assert "9.9 isn't in the archive." in done.stderr
    wait_until(lambda: len(receiver.accepted()) == 7, what="three more")
    again = receiver.accepted()[4:]
    assert sorted(uid for entry in again for uid in entry.study_iuids) == ["1.0", "1.2", "1.3"]
    assert not {entry.idempotency_key for entry in again} & {entry.idempotency_key for entry in before}
    if beside:
        wait_until(
            lambda: not list(indexer.state_dir.glob("resend.request*")), what="the request is done with"
        )
        assert indexer.stop() == 0
    assert len(receiver.accepted()) == 7


def test_a_pause_holds_studies_until_it_is_over(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    assert indexer.run("resume").stdout == "There was no pause.\n"
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        assert "until `resume`" in indexer.run("pause").stdout
        wait_until(lambda: "Paused by" in indexer.log, what="paused")
        pacs.store_study("1.1")
        status = json.loads(indexer.run("status", "--json").stdout)
        assert [problem["cause"] for problem in status["problems"]] == ["paused"]
        assert status["healthy"]
        assert status["last_error"] is None
        shown = indexer.run("status").stdout
        assert re.search(r"^held +paused$", shown, re.MULTILINE), shown
        # One kind of time for people; the other is JSON's.
        assert "UTC" not in shown and re.search(
            r"Paused by \w+ since [-0-9]+ [:0-9]+ [+-]\d\d:\d\d:", shown
        ), shown
        assert not receiver.accepted()
        assert indexer.run("resume").returncode == 0
        receiver.wait_for(1)
        # And by itself, when its time is over.
        said = indexer.log.count("Paused by")
        assert indexer.run("pause", "--for", "15s").returncode == 0
        wait_until(lambda: indexer.log.count("Paused by") > said, what="paused again")
        pacs.store_study("1.2")
        wait_until(lambda: len(receiver.accepted()) == 2, 60, "the second")
    assert receiver.study_iuids() == ["1.1", "1.2"]
    assert indexer.run("pause", "--for", "tomorrow").returncode == 2


def test_a_pause_outlives_a_restart(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    assert indexer.run("pause").returncode == 0
    pacs.store_study("1.1")
    with indexer.running():
        wait_until(lambda: indexer.caught_up and "Paused by" in indexer.log, what="paused")
        assert not receiver.accepted()
    with indexer.running():
        assert indexer.run("resume").returncode == 0
        receiver.wait_for(1)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((), "add_indexer.sql"), (("--arc5",), "add_indexer_arc5.sql"), (("--remove",), "remove_indexer.sql")],
)
def test_the_sql_is_printed(arguments: tuple[str, ...], name: str, indexer: Indexer) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cdc_indexer", "sql", *arguments],
        cwd=indexer.directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, (ROOT / "extras" / name).read_text())


@pytest.mark.parametrize("definer", ["pacs", "pacs@", "a'; DROP TABLE x; --@%", "pacs@%' OR '"])
def test_what_is_no_account_comes_into_no_script(definer: str, indexer: Indexer) -> None:
    done = indexer.run("sql", "--definer", definer)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--definer is an account" in done.stderr

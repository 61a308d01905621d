"""What nobody saw is found: the whole view against the ledger, by `reconcile` and by `run` itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.indexer import CENTER, Indexer, wait_until
from tests.invariant import assert_index_equals_pacs, assert_nothing_lost
from tests.pacs import Pacs
from tests.receiver import Receiver

pytestmark = pytest.mark.one_server

TRIGGERS = ("indexer_study_insert", "indexer_study_update", "indexer_study_delete")


@pytest.fixture
def indexer(
    pacs: Pacs, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Indexer]:
    # Gone is what isn't there ten minutes later.
    monkeypatch.setenv("CDC_INDEXER_TEST_GONE_AFTER_SECONDS", "1")
    one = Indexer(
        tmp_path / "indexer", pacs, receiver.url, delivery={"settle_seconds": 0.2, "deletes": "delete"}
    )
    yield one
    one.close()


def reconcile(indexer: Indexer, *arguments: str, status: int = 1) -> dict[str, Any]:
    done = indexer.run("reconcile", "--json", *arguments)
    assert done.returncode == status, done.stderr
    # The receiver of the tests answers no digests, which is said.
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def shown_pass(indexer: Indexer) -> dict[str, Any]:
    """What `status` says of the last pass, by a running service or by the files."""
    shown: dict[str, Any] = json.loads(indexer.run("status", "--json").stdout)["last_pass"]
    return shown


def without_triggers(pacs: Pacs) -> None:
    for name in TRIGGERS:
        pacs.execute(f"DROP TRIGGER IF EXISTS {name}")


def everything_there(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> list[int]:
    """Three studies that the index has, by `initial`."""
    stored = [pacs.store_study(f"1.{number}") for number in range(3)]
    assert indexer.run("initial").returncode == 0
    assert sorted(receiver.study_iuids()) == ["1.0", "1.1", "1.2"]
    return stored


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside run"])
def test_what_the_triggers_never_recorded_is_sent(
    beside: bool, pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    stored = everything_there(pacs, receiver, indexer)
    if beside:
        indexer.start()
        wait_until(lambda: indexer.caught_up, what="caught up")
    without_triggers(pacs)
    pacs.store_study("1.9")
    pacs.edit_study(stored[0], description="CRÁNEO", study_datetime="2024-05-06 07:08:09")
    pacs.delete_study(stored[1])
    before = len(receiver.accepted())
    result = reconcile(indexer)
    assert (result["compared"], result["missing"], result["stale"], result["extra"]) == (3, 1, 1, 1)
    assert (result["healed"], result["held"]) == (3, "")
    assert sorted(receiver.holds()) == ["1.0", "1.2", "1.9"]
    assert receiver.holds()["1.0"]["study_description"] == "CRÁNEO"
    assert len(receiver.accepted()) == before + 2  # and a DELETE
    again = reconcile(indexer)
    assert (again["missing"], again["stale"], again["extra"], again["healed"]) == (0, 0, 0, 0)
    assert len(receiver.accepted()) == before + 2  # and a DELETE
    wait_until(lambda: shown_pass(indexer) == again, what="shown")
    if beside:
        assert indexer.stop() == 0
        assert shown_pass(indexer) == again


def test_report_only_sends_nothing(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    everything_there(pacs, receiver, indexer)
    without_triggers(pacs)
    pacs.store_study("1.9")
    before = len(receiver.accepted())
    assert reconcile(indexer, "--report-only")["missing"] == 1
    assert len(receiver.accepted()) == before


def test_what_run_never_was_to_send_is_not_missing(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    """An old client's site that starts `run` first must not send its whole archive to an index that only inserts."""
    without = [pacs.store_study(f"1.{number}") for number in range(3)]
    pacs.execute("DELETE FROM study_service")
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        pacs.store_study("1.9")
        receiver.wait_for(1)
    assert len(without) == 3
    assert reconcile(indexer)["missing"] == 0
    assert set(receiver.study_iuids()) == {"1.9"}


def test_a_view_that_is_broken_empties_no_index(
    pacs: Pacs, receiver: Receiver, indexer: Indexer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(60):
        pacs.store_study(f"1.{number}")
    assert indexer.run("initial").returncode == 0
    without_triggers(pacs)
    pacs.execute("UPDATE study SET patient_fk = NULL WHERE study_iuid <> '1.0'")
    result = reconcile(indexer)
    assert "59 studies would be deleted" in result["held"]
    assert len(receiver.holds()) == 60
    status = json.loads(indexer.run("status", "--json").stdout)
    assert "changes_held" in [problem["cause"] for problem in status["problems"]]
    # Where nothing is deleted, nobody waits ten minutes to know that it is gone.
    indexer.settings["delivery"]["deletes"] = "ignore"
    indexer.write_files()
    monkeypatch.setenv("CDC_INDEXER_TEST_GONE_AFTER_SECONDS", "600")
    result = reconcile(indexer)
    assert (result["kept"], result["extra"], result["held"]) == (59, 0, "")
    indexer.settings["delivery"]["deletes"] = "delete"
    indexer.write_files()
    monkeypatch.setenv("CDC_INDEXER_TEST_GONE_AFTER_SECONDS", "1")
    assert reconcile(indexer, "--accept")["extra"] == 59
    assert set(receiver.holds()) == {"1.0"}


def test_deletions_with_a_row_of_their_own_are_never_held(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    """An archive that tidies up: the valve is for what nobody recorded."""
    stored = [pacs.store_study(f"1.{number}") for number in range(60)]
    assert indexer.run("initial").returncode == 0
    for study_pk in stored[1:]:
        pacs.delete_study(study_pk)
    result = reconcile(indexer)
    assert (result["held"], result["missing"], result["stale"]) == ("", 0, 0)
    assert indexer.run("run", "--until-caught-up").returncode == 0
    assert set(receiver.holds()) == {"1.0"}
    result = reconcile(indexer)
    assert (result["held"], result["extra"]) == ("", 0)


def test_another_archive_by_mistake_empties_no_index(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    """Few enough for the other valve, and nothing that is missing or stale: what is gone counts by itself."""
    stored = [f"1.{number}" for number in range(20)]
    for uid in stored:
        pacs.store_study(uid)
    assert indexer.run("initial").returncode == 0
    other = Pacs.create(pacs.server)
    try:
        indexer.settings["database"]["name"] = other.name
        indexer.write_files()
        with indexer.running():
            wait_until(lambda: "a comparison is held" in indexer.log, what="held")
        assert set(receiver.holds()) == set(stored)
        # The one who says that it is right has it done.
        assert reconcile(indexer, "--accept")["extra"] == 20
        assert not receiver.holds()
    finally:
        other.destroy()


def test_rows_of_the_archive_that_nobody_saw_are_found_after_a_purge(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    """The log is purged and the outbox emptied while the service is away."""
    everything_there(pacs, receiver, indexer)
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
    pacs.store_study("1.9")
    pacs.execute("DELETE FROM study_service")
    pacs.server.execute("FLUSH BINARY LOGS")
    files = pacs.server.execute("SHOW BINARY LOGS")
    pacs.server.execute(f"PURGE BINARY LOGS TO '{files[-1][0]}'")
    with indexer.running():
        wait_until(lambda: "1.9" in receiver.study_iuids(), what="the study", seconds=60)
    assert_nothing_lost(receiver.accepted(), ["1.0", "1.1", "1.2", "1.9"])
    assert_index_equals_pacs(receiver.accepted(), pacs, CENTER)

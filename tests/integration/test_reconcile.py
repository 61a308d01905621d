"""Archive and central index converge whatever happened to either: with the reference index, real processes, real sockets."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.central.conftest import KEYS, Index, MakeIndex
from tests.central.conftest import make_index as make_index  # noqa: PLC0414 - a fixture
from tests.indexer import Indexer, wait_until
from tests.pacs import Pacs

pytestmark = pytest.mark.one_server

CENTER = "000"
FIELDS = "study_iuid, study_pk, patient_id, patient_name, study_description, study_instances"


@pytest.fixture
def index(make_index: MakeIndex) -> Index:
    one = make_index()
    one.start()
    return one


@pytest.fixture
def indexer(pacs: Pacs, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Indexer]:
    monkeypatch.setenv("CDC_INDEXER_TEST_GONE_AFTER_SECONDS", "1")
    monkeypatch.setenv("CDC_INDEXER_TEST_REPORT_SECONDS", "2")
    one = Indexer(
        tmp_path / "indexer",
        pacs,
        f"{index.url}/api/v1/register",
        delivery={"settle_seconds": 0.2, "deletes": "delete"},
    )
    one.center = CENTER
    one.settings["key"] = KEYS["centers"][CENTER]
    one.write_files()
    yield one
    one.close()


def in_archive(pacs: Pacs) -> set[tuple[Any, ...]]:
    return set(pacs.execute(f"SELECT {FIELDS} FROM indexer_study"))


def in_index(index: Index) -> set[tuple[Any, ...]]:
    return {
        tuple(row)
        for row in index.rows(f"SELECT {FIELDS} FROM studies WHERE center = '{CENTER}' AND NOT deleted")
    }


def reconcile(indexer: Indexer, *arguments: str, status: int = 0) -> dict[str, Any]:
    done = indexer.run("reconcile", "--json", *arguments)
    assert done.returncode == status, done.stdout + done.stderr
    assert '"event": "reconcile done", "compared":' in done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_what_was_changed_in_the_index_by_hand_is_healed(pacs: Pacs, index: Index, indexer: Indexer) -> None:
    stored = {pacs.store_study(f"1.{number}") for number in range(10)}
    assert indexer.run("initial").returncode == 0
    assert in_index(index) == in_archive(pacs)
    result = reconcile(indexer)
    assert (result["compared"], result["missing"], result["stale"], result["extra"]) == (10, 0, 0, 0)
    assert result["index"]

    index.execute("DELETE FROM studies WHERE study_iuid IN ('1.1', '1.2')")
    index.execute("UPDATE studies SET patient_name = 'OTRA^PERSONA' WHERE study_iuid = '1.3'")
    index.execute(
        "INSERT INTO studies (patient_pk, study_pk, study_iuid, center, more, first_received_at, received_at, versions) "
        f"VALUES (1, {max(stored) + 5}, '9.9', '{CENTER}', '{{}}', 0, 0, 1)"
    )
    result = reconcile(indexer, "--report-only", status=1)
    assert (result["missing"], result["stale"], result["extra"], result["healed"]) == (2, 1, 1, 0)
    result = reconcile(indexer)
    assert (result["missing"], result["stale"], result["extra"], result["healed"]) == (2, 1, 1, 4)
    assert in_index(index) == in_archive(pacs)
    result = reconcile(indexer)
    assert (result["missing"], result["stale"], result["extra"]) == (0, 0, 0)


def test_a_uid_under_another_primary_key_is_never_deleted(
    pacs: Pacs, index: Index, indexer: Indexer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study that was stored again, or an archive that was loaded elsewhere; the two keys lie in different ranges."""
    monkeypatch.setenv("CDC_INDEXER_TEST_SWEEP_PART", "2")
    stored = [pacs.store_study(f"1.{number}") for number in range(8)]
    assert indexer.run("initial").returncode == 0
    # One lay before the range of the study that it is now, one behind.
    index.execute(f"UPDATE studies SET study_pk = {stored[0] - 1} WHERE study_iuid = '1.6'")
    index.execute(f"UPDATE studies SET study_pk = {stored[7] + 1} WHERE study_iuid = '1.1'")
    index.execute(
        "CREATE TABLE was_deleted (uid TEXT); CREATE TRIGGER deletions AFTER UPDATE OF deleted ON studies "
        "WHEN NEW.deleted BEGIN INSERT INTO was_deleted VALUES (NEW.study_iuid); END"
    )
    result = reconcile(indexer)
    assert (result["missing"] + result["stale"], result["extra"], result["healed"]) == (2, 0, 2)
    assert in_index(index) == in_archive(pacs)
    assert index.rows("SELECT * FROM was_deleted") == []
    assert index.rows("SELECT versions FROM studies WHERE study_iuid = '1.1'") == [(2,)]


def test_what_is_kept_on_purpose_is_no_difference(pacs: Pacs, index: Index, indexer: Indexer) -> None:
    """For the exit status as for the health: an index that isn't told of deletions."""
    indexer.settings["delivery"]["deletes"] = "ignore"
    indexer.write_files()
    stored = [pacs.store_study(f"1.{number}") for number in range(4)]
    assert indexer.run("initial").returncode == 0
    pacs.delete_study(stored[0])
    assert indexer.run("run", "--until-caught-up").returncode == 0
    # One that nobody saw go, too.
    pacs.execute("DROP TRIGGER indexer_study_delete")
    pacs.delete_study(stored[1])
    for _ in range(2):
        result = reconcile(indexer)
        assert (result["missing"], result["stale"], result["extra"], result["kept"]) == (0, 0, 0, 2)
    assert len(in_index(index)) == 4
    assert json.loads(indexer.run("status", "--json").stdout)["problems"] == []


def test_what_the_index_keeps_otherwise_is_sent_once(
    pacs: Pacs, index: Index, indexer: Indexer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It differs each time, and isn't sent again until its document changes; also where a pass was killed and went on."""
    monkeypatch.setenv("CDC_INDEXER_TEST_SWEEP_PART", "2")
    stored = [pacs.store_study(f"1.{number}") for number in range(8)]
    assert indexer.run("initial").returncode == 0
    index.execute(
        "CREATE TRIGGER lossy AFTER UPDATE OF patient_name ON studies WHEN NEW.patient_name <> 'X' "
        "BEGIN UPDATE studies SET patient_name = 'X' WHERE id = NEW.id; END"
    )
    index.execute("UPDATE studies SET patient_name = 'X' WHERE study_iuid = '1.1'")

    def versions() -> int:
        found: int = index.rows("SELECT versions FROM studies WHERE study_iuid = '1.1'")[0][0]
        return found

    for number in range(4):
        if number == 2:
            indexer.start("reconcile", failpoint="sweep_part_done:3")
            assert indexer.wait() == -signal.SIGKILL
        result = reconcile(indexer, status=1)
        assert (result["missing"], result["stale"], result["kept"], result["healed"]) == (0, 1, 0, 0)
        assert versions() == 2
    assert indexer.log.count("a comparison goes on") == 1
    assert indexer.log.count("the index keeps a study otherwise than it was sent") == 1
    pacs.edit_study(stored[1], description="NEW", study_datetime="2024-05-06 07:08:09")
    assert indexer.run("run", "--until-caught-up").returncode == 0
    assert versions() == 3
    index.execute("DROP TRIGGER lossy")


@pytest.mark.parametrize(
    "when",
    ["a report was lost", "between two reports", pytest.param("over a restart", marks=pytest.mark.soak)],
)
def test_an_index_that_went_back_in_time_heals_by_itself(
    when: str, pacs: Pacs, index: Index, indexer: Indexer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Restored from a backup, and a live study arrives before the next report."""
    reported = when == "a report was lost"
    monkeypatch.setenv("CDC_INDEXER_TEST_REPORT_SECONDS", "1" if reported else "600")
    for number in range(10):
        pacs.store_study(f"1.{number}")
    with indexer.running():
        wait_until(lambda: len(in_index(index)) == 10, what="ten")
        wait_until(lambda: index.rows("SELECT count(*) FROM reports") == [(1,)], what="a report")
        index.stop()
        copy = index.backup()
        index.start()
        before = index.rows("SELECT at FROM reports")
        for number in range(20, 25):
            pacs.store_study(f"1.{number}")
        wait_until(lambda: len(in_index(index)) == 15, what="fifteen")
        if reported:
            wait_until(lambda: index.rows("SELECT at FROM reports") > before, what="a report since")
        index.stop()
        index.restore(copy)
        index.start()
        pacs.store_study("1.30")
        if not reported:
            wait_until(lambda: len(in_index(index)) == 11, what="the live study")
            if when == "over a restart":
                monkeypatch.setenv("CDC_INDEXER_TEST_REPORT_SECONDS", "1")
                assert indexer.stop() == 0
                indexer.start()
                wait_until(lambda: "lost something" in indexer.log, what="noticed")
            else:
                assert index.rows("SELECT at FROM reports") == before
                # A change of health is reported at once.
                assert indexer.run("pause").returncode == 0
                wait_until(lambda: index.rows("SELECT at FROM reports") > before, what="a report")
                assert indexer.run("resume").returncode == 0
        wait_until(lambda: in_index(index) == in_archive(pacs), 60, "healed")
    assert "lost something" in indexer.log


@pytest.mark.parametrize("command", ["run", "initial"])
def test_a_start_without_a_state_sends_only_what_differs(
    command: str, pacs: Pacs, index: Index, indexer: Indexer
) -> None:
    for number in range(10):
        pacs.store_study(f"1.{number}")
    with indexer.running():
        wait_until(lambda: len(in_index(index)) == 10, what="ten")
    shutil.rmtree(indexer.state_dir)
    versions = index.rows("SELECT study_iuid, versions FROM studies ORDER BY study_iuid")
    pacs.store_study("1.20")
    if command == "initial":
        assert indexer.run("initial").returncode == 0
    else:
        with indexer.running():
            wait_until(lambda: len(in_index(index)) == 11, what="the eleventh")
            wait_until(lambda: indexer.caught_up, what="caught up")
    assert in_index(index) == in_archive(pacs)
    now = dict(index.rows("SELECT study_iuid, versions FROM studies"))
    assert [(uid, now[uid]) for uid, _ in versions] == versions

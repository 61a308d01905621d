"""Two processes of one centre, a standby that took over and the one that was frozen: nothing older wins (CONVERGENCE 4)."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.central.conftest import KEYS, Index, MakeIndex
from tests.central.conftest import make_index as make_index  # noqa: PLC0414 - a fixture
from tests.indexer import Indexer, nothing_waits, wait_until
from tests.integration.test_reconcile import CENTER, in_archive, in_index
from tests.pacs import Pacs

pytestmark = pytest.mark.one_server

AT = "2024-05-06 07:08:09"

#: What each study was over time, written by the index's own database.
HISTORY = """
CREATE TABLE history (number INTEGER PRIMARY KEY, study_iuid TEXT, description TEXT, deleted INTEGER);
CREATE TRIGGER history_insert AFTER INSERT ON studies BEGIN
  INSERT INTO history (study_iuid, description, deleted) VALUES (NEW.study_iuid, NEW.study_description, NEW.deleted);
END;
CREATE TRIGGER history_update AFTER UPDATE ON studies BEGIN
  INSERT INTO history (study_iuid, description, deleted) VALUES (NEW.study_iuid, NEW.study_description, NEW.deleted);
END;
"""


@pytest.fixture
def index(make_index: MakeIndex) -> Index:
    one = make_index()
    one.start()
    one.execute(HISTORY)
    return one


@pytest.fixture
def processes(
    pacs: Pacs, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Indexer, Indexer]]:
    monkeypatch.setenv("CDC_INDEXER_TEST_GONE_AFTER_SECONDS", "1")
    monkeypatch.setenv("CDC_INDEXER_TEST_REPORT_SECONDS", "1")
    made = []
    for number in (1, 2):
        one = Indexer(
            tmp_path / f"indexer{number}",
            pacs,
            f"{index.url}/api/v1/register",
            delivery={"settle_seconds": 0.2, "deletes": "delete"},
            stream={"server_id": 4_000_000 + number + os.getpid() % 100_000 * 10},
        )
        one.center = CENTER
        one.settings["key"] = KEYS["centers"][CENTER]
        one.write_files()
        made.append(one)
    yield made[0], made[1]
    for one in made:
        one.close()


def frozen(indexer: Indexer) -> bool:
    assert indexer.process is not None
    stat = Path(f"/proc/{indexer.process.pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] == "T"


def over_time(index: Index, uid: str) -> list[str]:
    return [
        "deleted" if deleted else text
        for text, deleted in index.rows(
            f"SELECT description, deleted FROM history WHERE study_iuid = '{uid}' ORDER BY number"
        )
    ]


@pytest.mark.parametrize("where", ["before_post", "within_post"])
def test_a_frozen_process_that_wakes_up_brings_nothing_older(
    where: str, pacs: Pacs, index: Index, processes: tuple[Indexer, Indexer]
) -> None:
    """Frozen between the reading of two studies and the first of their requests, or while that request is under way."""
    old, new = processes
    edited, deleted = pacs.store_study("1.1"), pacs.store_study("1.2")
    assert old.run("run", "--until-caught-up").returncode == 0
    assert len(in_index(index)) == 2
    if where == "within_post":
        # What it may have given out before it was killed lies ahead of the clock.
        old.start()
        wait_until(lambda: old.caught_up, what="caught up")
        pacs.edit_study(edited, description="OLDER", study_datetime=AT)
        wait_until(lambda: over_time(index, "1.1")[-1] == "OLDER", what="an edit")
        wait_until(lambda: nothing_waits(old, pacs), what="all durable")
        old.kill()
    # Its first request is one of the two that the edits make.
    old.start(failpoint=f"{where}:1:stop")
    wait_until(lambda: old.caught_up, what="caught up")
    for study_pk in (edited, deleted):
        pacs.edit_study(study_pk, description="OLD", study_datetime=AT)
    wait_until(lambda: frozen(old), what="frozen")
    if where == "before_post":
        assert "OLD" not in over_time(index, "1.1") + over_time(index, "1.2")
    with new.running():
        wait_until(lambda: in_index(index) == in_archive(pacs), what="the standby took over")
        pacs.edit_study(edited, description="NEW", study_datetime=AT)
        pacs.delete_study(deleted)
        wait_until(lambda: over_time(index, "1.1")[-1] == "NEW", what="a newer version")
        wait_until(lambda: over_time(index, "1.2")[-1] == "deleted", what="the deletion")
        assert old.process is not None
        old.process.send_signal(signal.SIGCONT)
        wait_until(lambda: nothing_waits(old, pacs) and nothing_waits(new, pacs), 60, "both are through")
        assert old.stop() == 0, old.log
    assert in_index(index) == in_archive(pacs)
    for uid, last in (("1.1", "NEW"), ("1.2", "deleted")):
        times = over_time(index, uid)
        assert set(times[times.index(last) :]) == {last}, times

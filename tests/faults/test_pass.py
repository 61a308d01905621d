"""SIGKILL at each step of a comparison of archive and index, an index that goes away in it, studies that change."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.central.conftest import KEYS, Index
from tests.central.conftest import make_index as make_index  # noqa: PLC0414 - a fixture
from tests.indexer import Indexer, nothing_waits, wait_until
from tests.integration.test_reconcile import CENTER, in_archive, in_index
from tests.integration.test_reconcile import index as index  # noqa: PLC0414 - a fixture
from tests.pacs import Pacs

#: The steps of a pass, in their order; some come in each part.
STEPS = (
    "sweep_page:2",
    "sweep_part_read:1",
    "sweep_looked:1",
    "sweep_healed:1",
    # What the ledger says from here on is found by the pages of the next one.
    "sweep_corrected:1",
    "before_post:1",
    "after_post:1",
    "sweep_part_done:2",
    "sweep_end:1",
)

STUDIES = 24


@pytest.fixture
def indexer(pacs: Pacs, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Indexer]:
    for name, value in (
        ("GONE_AFTER_SECONDS", "0.5"),
        ("SWEEP_PART", "4"),
        ("REPORT_SECONDS", "600"),
        ("PASS_AGAIN_SECONDS", "1"),
    ):
        monkeypatch.setenv(f"CDC_INDEXER_TEST_{name}", value)
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


def differences(pacs: Pacs, index: Index) -> None:
    """Missing, stale and extra, at both ends of the archive; those at the end are there whatever was compared already."""
    for number in (1, STUDIES - 4):
        index.execute(f"DELETE FROM studies WHERE study_iuid = '1.{number}'")
        index.execute(f"UPDATE studies SET patient_name = 'X' WHERE study_iuid = '1.{number + 1}'")
        index.execute(
            "INSERT INTO studies (patient_pk, study_pk, study_iuid, center, more, first_received_at, received_at, versions) "
            f"SELECT 1, study_pk, '9.{number}', '{CENTER}', '{{}}', 0, 0, 1 FROM studies "
            f"WHERE study_iuid = '1.{number + 2}' AND NOT EXISTS (SELECT 1 FROM studies WHERE study_iuid = '9.{number}')"
        )


@pytest.mark.soak
def test_killed_at_each_step_of_a_pass(pacs: Pacs, index: Index, indexer: Indexer) -> None:
    for number in range(STUDIES):
        pacs.store_study(f"1.{number}")
    assert indexer.run("run", "--until-caught-up").returncode == 0
    assert in_index(index) == in_archive(pacs)
    for step in STEPS:
        differences(pacs, index)
        indexer.start("reconcile", failpoint=step)
        assert indexer.wait() == -signal.SIGKILL, (step, indexer.log)
    assert "a comparison goes on" in indexer.log
    done = indexer.run("reconcile", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    if in_index(index) != in_archive(pacs):
        # What was put in behind a pass that went on is the next one's.
        assert indexer.run("reconcile").returncode == 0
    assert in_index(index) == in_archive(pacs)
    result = json.loads(indexer.run("reconcile", "--json").stdout)
    assert (result["missing"], result["stale"], result["extra"], result["healed"]) == (0, 0, 0, 0)
    assert result["compared"] == STUDIES


@pytest.mark.soak
def test_a_pass_with_trouble_all_around(pacs: Pacs, index: Index, indexer: Indexer) -> None:
    """The index goes away in it and comes back, settings change, studies change and go meanwhile."""
    studies = [pacs.store_study(f"1.{number}") for number in range(STUDIES)]
    indexer.settings["reconcile"] = {"studies_per_second": 8}
    indexer.write_files()
    with indexer.running():
        wait_until(lambda: indexer.caught_up and in_index(index) == in_archive(pacs), what="caught up")
        differences(pacs, index)
        indexer.settings["reconcile"] = {"every_hours": 0.0001, "studies_per_second": 8}
        indexer.settings["delivery"]["deletes"] = "ignore"
        indexer.write_files()
        assert indexer.process is not None
        indexer.process.send_signal(signal.SIGHUP)
        wait_until(lambda: indexer.log.count("a comparison begins") >= 2, what="a sweep")
        index.stop()
        pacs.edit_study(studies[3], description="NEW", study_datetime="2024-05-06 07:08:09")
        pacs.delete_study(studies[5])
        pacs.edit_study(studies[-2], description="NEW", study_datetime="2024-05-06 07:08:09")
        pacs.delete_study(studies[-1])
        pacs.store_study("1.90")
        wait_until(lambda: "a comparison is interrupted" in indexer.log, what="interrupted")
        indexer.settings["delivery"].update(concurrency=2, deletes="delete")
        indexer.write_files()
        indexer.process.send_signal(signal.SIGHUP)
        index.start()
        wait_until(lambda: in_index(index) == in_archive(pacs) and nothing_waits(indexer, pacs), 90, "equal")
        ended = indexer.log.count("a comparison has ended")
        wait_until(lambda: indexer.log.count("a comparison has ended") > ended + 1, 60, "another pass")

        def found_nothing() -> bool:
            last = json.loads(indexer.run("status", "--json").stdout)["last_pass"]
            return (last["missing"], last["stale"], last["extra"], last["healed"]) == (0, 0, 0, 0)

        # The log is ahead of what `status` reads, which is written every second.
        wait_until(found_nothing, 5, "a pass that finds nothing")
        assert in_index(index) == in_archive(pacs)

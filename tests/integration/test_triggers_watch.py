"""Green while studies are lost or wrong: `run` itself notices dropped triggers, and an archive that was upgraded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.indexer import Indexer, wait_until
from tests.pacs import Pacs
from tests.pacs5 import Pacs5Before531
from tests.receiver import Receiver
from tests.servers import Server

ROOT = Path(__file__).resolve().parent.parent.parent


def causes(indexer: Indexer) -> set[str]:
    said = json.loads((indexer.state_dir / "status.json").read_text())
    return {problem["cause"] for problem in said["problems"]}


@pytest.mark.one_server
def test_dropped_triggers_are_said_and_what_they_missed_is_sent(
    server: Server, pacs: Pacs, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDC_INDEXER_TEST_TRIGGERS_SECONDS", "1")
    before = pacs.store_study("1.1")
    pacs.execute("DELETE FROM study_service")
    indexer = Indexer(tmp_path / "indexer", pacs, receiver.url, delivery={"settle_seconds": 0.2})
    try:
        with indexer.running():
            wait_until(lambda: indexer.caught_up, what="caught up")
            pacs.store_study("1.2")
            receiver.wait_for(1)
            pacs.execute("DROP TRIGGER indexer_study_insert")
            pacs.execute("DROP TRIGGER indexer_study_update")
            pacs.store_study("1.3")
            wait_until(lambda: "1.3" in receiver.study_iuids(), 60, "it is sent all the same")
            wait_until(lambda: "not_recorded" in causes(indexer), 60, "said")
            server.run_script((ROOT / "extras/add_indexer.sql").read_text(), pacs.name)
            pacs.store_study("1.4")
            wait_until(lambda: "1.4" in receiver.study_iuids(), 60, "the next")
            wait_until(lambda: "not_recorded" not in causes(indexer), 60, "it is over")
    finally:
        indexer.close()
    assert before
    assert "1.1" not in receiver.study_iuids(), "stored before the service began"


@pytest.mark.one_server
def test_an_archive_that_was_upgraded_is_said(
    server: Server, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5.31, and its script not run again: new patients have no id in the view, and nothing fails."""
    monkeypatch.setenv("CDC_INDEXER_TEST_TRIGGERS_SECONDS", "0.5")
    pacs = Pacs5Before531.create(server)
    indexer = Indexer(tmp_path / "indexer", pacs, receiver.url, delivery={"settle_seconds": 0.2})
    try:
        with indexer.running():
            pacs.store_study("1.1")
            receiver.wait_for(1)
            assert "other_version" not in causes(indexer)
            pacs.execute("ALTER TABLE patient_id ADD patient_fk BIGINT")
            pacs.execute(
                "UPDATE patient_id SET patient_fk = (SELECT p.pk FROM patient p WHERE patient_id_fk = patient_id.pk)"
            )
            wait_until(lambda: "other_version" in causes(indexer), 60, "said")
            said = indexer.run("status")
            assert said.returncode == 1
            assert "extras/add_indexer_arc5.sql" in said.stdout
            checked = indexer.run("check")
            assert f"mysql {pacs.name} < extras/add_indexer_arc5.sql" in checked.stdout
            pacs.store_study("1.2")
            wait_until(lambda: "1.2" in receiver.study_iuids(), 60, "studies go on")
            server.run_script(pacs.script.read_text(), pacs.name)
            wait_until(lambda: "other_version" not in causes(indexer), 60, "it is over")
    finally:
        indexer.close()
        pacs.destroy()

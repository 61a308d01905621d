"""Green while studies are lost: triggers that were dropped are noticed by `run` itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.indexer import Indexer, wait_until
from tests.pacs import Pacs
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

"""Green while studies are lost or wrong: `run` itself notices dropped triggers, and an archive that was upgraded."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
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


@pytest.fixture
def indexer(
    pacs: Pacs, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Indexer]:
    for what in ("SAMPLER", "TRIGGERS", "SILENCE"):
        monkeypatch.setenv(f"CDC_INDEXER_TEST_{what}_SECONDS", "0.5")
    pacs.store_study("1.1")
    pacs.execute("DELETE FROM study_service")
    one = Indexer(tmp_path / "indexer", pacs, receiver.url, delivery={"settle_seconds": 0.2})
    yield one
    one.close()
    assert "1.1" not in receiver.study_iuids(), "stored before the service began"


def drop_triggers(pacs: Pacs) -> None:
    pacs.execute("DROP TRIGGER indexer_study_insert")
    pacs.execute("DROP TRIGGER indexer_study_update")


def swap_table(pacs: Pacs) -> None:
    """As pt-online-schema-change does it where other tables refer to this one (drop_swap): the triggers are gone."""
    pacs.execute("CREATE TABLE _study_new LIKE study")
    pacs.execute("INSERT INTO _study_new SELECT * FROM study")
    pacs.execute("SET foreign_key_checks = 0")
    pacs.execute("DROP TABLE study")
    pacs.execute("RENAME TABLE _study_new TO study")
    pacs.execute("SET foreign_key_checks = 1")


@pytest.mark.one_server
@pytest.mark.parametrize("lose", [drop_triggers, swap_table], ids=["dropped", "table swapped"])
def test_triggers_that_are_gone_are_said_and_what_they_missed_is_sent(
    lose: Callable[[Pacs], None], pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    # More than are looked at each time: a pass over the archive finds the rest.
    missed = [f"1.3.{number}" for number in range(60)]
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        pacs.store_study("1.2")
        receiver.wait_for(1)
        lose(pacs)
        with pacs.transaction():
            for uid in missed:
                pacs.store_study(uid)
        wait_until(lambda: "not_recorded" in causes(indexer), 60, "said")
        wait_until(lambda: set(missed) <= set(receiver.study_iuids()), 60, "all are sent all the same")
        status = indexer.run("status")
        assert status.returncode == 1
        assert f"cdc_indexer sql | mysql {pacs.name}`" in status.stdout
        assert "cdc_indexer reconcile`." in status.stdout
        pacs.server.run_script((ROOT / "extras/add_indexer.sql").read_text(), pacs.name)
        pacs.store_study("1.4")
        wait_until(lambda: "1.4" in receiver.study_iuids(), 60, "the next")
        wait_until(lambda: "not_recorded" not in causes(indexer), 60, "it is over")
    assert sorted(receiver.study_iuids()) == sorted(set(receiver.study_iuids())), "none twice"


@pytest.mark.one_server
def test_changes_that_nobody_records_are_said_and_sent(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    def sent(description: str) -> bool:
        return any(entry.json["study_description"] == description for entry in receiver.accepted())

    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        study_pk = pacs.store_study("1.2")
        receiver.wait_for(1)
        pacs.execute("UPDATE study SET study_desc = 'RECORDED' WHERE pk = %s", (study_pk,))
        wait_until(lambda: sent("RECORDED"), what="a change that is recorded")
        time.sleep(2)
        assert not causes(indexer)
        pacs.execute("DROP TRIGGER indexer_study_update")
        pacs.execute("UPDATE study SET study_desc = 'UNRECORDED' WHERE pk = %s", (study_pk,))
        wait_until(lambda: "not_recorded" in causes(indexer), 60, "said")
        wait_until(lambda: sent("UNRECORDED"), 60, "sent all the same")
        time.sleep(1.5)
        assert "not_recorded" in causes(indexer), "until a change is recorded"
        pacs.server.run_script((ROOT / "extras/add_indexer.sql").read_text(), pacs.name)
        pacs.execute("UPDATE study SET study_desc = 'AGAIN' WHERE pk = %s", (study_pk,))
        wait_until(lambda: "not_recorded" not in causes(indexer), 60, "it is over")
        wait_until(lambda: sent("AGAIN"), what="the next")


@pytest.mark.one_server
def test_an_archive_that_stores_nothing_new_is_said_where_that_is_wanted(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    pacs.store_study("1.2")
    with indexer.running():
        receiver.wait_for(1)
        time.sleep(1.5)
        assert not causes(indexer), "off by default"
        # 1.8 s: it was quiet for longer.
        indexer.settings["monitor"] = {"listen": None, "quiet_hours": 0.0005}
        indexer.write_files()
        assert indexer.process is not None
        indexer.process.send_signal(signal.SIGHUP)
        wait_until(lambda: causes(indexer) == {"quiet"}, what="said")
        status = indexer.run("status")
        assert status.returncode == 0, "a warning"
        assert "no new study" in status.stdout
        indexer.settings["monitor"]["quiet_hours"] = 0.01
        indexer.write_files()
        indexer.process.send_signal(signal.SIGHUP)
        pacs.store_study("1.3")
        wait_until(lambda: not causes(indexer), what="it is over")


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
            assert f"sql --arc5 | mysql {pacs.name}`), then" in said.stdout
            checked = indexer.run("check")
            assert f"sql --arc5 | mysql {pacs.name}" in checked.stdout
            pacs.store_study("1.2")
            wait_until(lambda: "1.2" in receiver.study_iuids(), 60, "studies go on")
            server.run_script(pacs.script.read_text(), pacs.name)
            wait_until(lambda: "other_version" not in causes(indexer), 60, "it is over")
    finally:
        indexer.close()
        pacs.destroy()

"""Many patients change at once, as by an upgrade of the archive: their studies go behind the live ones, and all do go."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.indexer import Indexer, wait_until
from tests.pacs import Pacs
from tests.receiver import Answer, Entry, Receiver

pytestmark = pytest.mark.one_server

#: More than there is room for among the studies under way.
PATIENTS = 12_000


def test_a_live_study_does_not_wait_for_those_of_changed_patients(
    pacs: Pacs, receiver: Receiver, tmp_path: Path
) -> None:
    indexer = Indexer(tmp_path / "indexer", pacs, receiver.url, delivery={"settle_seconds": 0.5})
    stored = pacs.store_studies(PATIENTS)
    pacs.execute("DELETE FROM study_service")
    assert indexer.run("initial", "--already-sent").returncode == 0, indexer.log

    def slow(entry: Entry) -> Answer:
        return Answer(delay_seconds=0.015)

    receiver.answer_with(slow)
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        pacs.execute("UPDATE patient SET pat_name = CONCAT(pat_name, ' RENAMED')")
        wait_until(lambda: len(receiver.accepted()) > 100, what="the first of them")
        waited = []
        for number in range(5):
            uid = f"1.{number}"
            stored_at = time.monotonic()
            pk = pacs.store_study(uid)
            wait_until(lambda uid=uid: uid in receiver.holds(), what="a live study")  # type: ignore[misc]
            pacs.update_counts(pk, 1, 2, "CT")
            wait_until(lambda uid=uid: receiver.holds()[uid]["study_instances"] == 2, what="its counts")  # type: ignore[misc]
            waited.append(time.monotonic() - stored_at)
        behind = PATIENTS - len(receiver.accepted())
        wait_until(lambda: len(receiver.accepted()) == PATIENTS + 10, 200, "all of the patients' studies")
    assert behind > PATIENTS / 4, "they were all sent before: nothing was shown"
    assert max(waited) < 3, waited
    held = receiver.holds()
    assert all(held[uid]["patient_name"].endswith(" RENAMED") for uid in stored)
    assert receiver.in_flight_together() == []

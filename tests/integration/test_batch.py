"""``delivery.batch_size`` from the archive to an index: the reference one, and one that rejects a whole for one study."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.central.conftest import READER, WRITER, Index
from tests.central.conftest import make_index as make_index  # noqa: PLC0414 - a fixture
from tests.indexer import KEY, Indexer, wait_until
from tests.invariant import parked_uids
from tests.pacs import Pacs
from tests.receiver import Answer, Receiver

pytestmark = pytest.mark.one_server


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(KEY) as one:
        yield one


def test_the_reference_index_takes_batches(
    pacs: Pacs, make_index: Callable[[], Index], tmp_path: Path
) -> None:
    index = make_index()
    index.start()
    pacs.store_studies(120)
    indexer = Indexer(
        tmp_path / "indexer", pacs, f"{index.url}/api/v1/register", key=WRITER, delivery={"batch_size": 50}
    )
    indexer.center = "000"
    indexer.write_files()
    try:
        checked = indexer.run("check", "--index")
        assert checked.returncode == 0, checked.stdout
        for feature in ("batch=", "digests", "reports", "versions"):
            assert feature in checked.stdout
        assert index.ask("GET", "/api/v1/studies", READER).json()["studies"] == [], "it leaves no study"
        assert indexer.run("initial").returncode == 0, indexer.log
        pacs.store_study("1.2.840.1")
        assert indexer.run("run", "--until-caught-up").returncode == 0, indexer.log
    finally:
        indexer.close()
    # Counted beside the requests.
    wait_until(
        lambda: index.ask("GET", "/api/v1/studies", READER, params={"limit": 1}).json()["total"] == 121,
        what="121 studies",
    )
    assert not parked_uids(indexer.state_dir)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_one_wrong_study_of_a_batch_is_parked_and_the_others_arrive(
    pacs: Pacs, receiver: Receiver, tmp_path: Path, status: int
) -> None:
    uids = pacs.store_studies(60)
    receiver.for_studies([uids[17]], Answer(status, {"status": "no"}))
    indexer = Indexer(tmp_path / "indexer", pacs, receiver.url, delivery={"batch_size": 20, "concurrency": 2})
    try:
        with indexer.running():
            wait_until(
                lambda: len({uid for entry in receiver.accepted() for uid in entry.study_iuids}) == 59,
                what="all but one",
            )
            wait_until(lambda: "parked" in indexer.log, what="parked")
    finally:
        indexer.close()
    accepted = [study for entry in receiver.accepted() for study in entry.studies]
    assert sorted(study["study_iuid"] for study in accepted) == sorted(set(uids) - {uids[17]})
    assert len({study["idempotency_key"] for study in accepted}) == 59
    assert max(len(entry.studies) for entry in receiver.accepted()) > 1

"""Two programs send for one centre: a second archive that was started with the first one's configuration."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.central.conftest import KEYS, Index
from tests.central.conftest import make_index as make_index  # noqa: PLC0414 - a fixture
from tests.indexer import Indexer, wait_until
from tests.integration.test_reconcile import CENTER
from tests.integration.test_reconcile import index as index  # noqa: PLC0414 - a fixture
from tests.pacs import Pacs

pytestmark = pytest.mark.one_server

SAID = "another process sends studies of this centre to the index"


@pytest.fixture
def other_pacs(pacs: Pacs) -> Iterator[Pacs]:
    """Its primary keys are others, so that each study of the two has its own."""
    one = Pacs.create(pacs.server)
    one.execute("ALTER TABLE study AUTO_INCREMENT = 1000")
    yield one
    one.destroy()


def indexer(directory: Path, pacs: Pacs, index: Index, number: int) -> Indexer:
    one = Indexer(
        directory,
        pacs,
        f"{index.url}/api/v1/register",
        delivery={"settle_seconds": 0.2},
        stream={"server_id": 4_000_000 + number + os.getpid() % 100_000 * 10},
    )
    one.center = CENTER
    one.settings["key"] = KEYS["centers"][CENTER]
    one.write_files()
    return one


def problems(one: Indexer) -> list[str]:
    return [problem["cause"] for problem in json.loads(one.run("status", "--json").stdout)["problems"]]


def last_report(index: Index) -> int:
    """A number that grows with each of them."""
    at: int = index.rows("SELECT coalesce(max(at), 0) FROM reports")[0][0]
    return at


def uids(index: Index) -> set[str]:
    return {uid for (uid,) in index.rows("SELECT study_iuid FROM studies WHERE NOT deleted")}


def store_until(noticed: Callable[[], bool], pacs: Pacs, prefix: str) -> set[str]:
    """Stores studies until it is: one that arrives while the other's report is on its way isn't seen. What was stored."""
    stored: set[str] = set()
    for number in range(10):
        uid = f"{prefix}.{number}"
        pacs.store_study(uid)
        stored.add(uid)
        with suppress(AssertionError):
            wait_until(noticed, 5)
            return stored
    raise AssertionError(f"none of {len(stored)} studies was noticed")


def test_each_notices_the_other(
    pacs: Pacs, other_pacs: Pacs, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDC_INDEXER_TEST_REPORT_SECONDS", "0.5")
    one = indexer(tmp_path / "one", pacs, index, 1)
    two = indexer(tmp_path / "two", other_pacs, index, 2)
    try:
        one.start()
        wait_until(lambda: one.caught_up, what="the first has caught up")
        pacs.store_study("1.1")
        wait_until(lambda: uids(index) == {"1.1"}, what="a study")
        # What it sent itself is no reason, also after a kill.
        for _ in range(2):
            one.kill()
            one.start()
            wait_until(lambda: one.caught_up, what="caught up again")
            pacs.store_study(f"1.{len(uids(index)) + 1}")
            until = last_report(index) + 3_000_000
            wait_until(lambda until=until: last_report(index) > until, what="reports")  # type: ignore[misc]
        assert SAID not in one.log
        two.start()
        wait_until(lambda: two.caught_up, what="the second has caught up")
        theirs = store_until(lambda: SAID in one.log, other_pacs, "2.1")
        wait_until(lambda: "the ledger is believed again" in one.log, what="compared")
        wait_until(lambda: one.log.count("a comparison has ended") >= 1, what="a pass")
        # What the index has when it begins isn't another one's.
        assert SAID not in two.log
        ours = store_until(lambda: SAID in two.log, pacs, "1.9")
        # After the pass it is said again, and for as long as it goes on.
        theirs |= store_until(lambda: "other_writer" in problems(one), other_pacs, "2.2")
        assert one.stop() == 0
        assert two.stop() == 0
    finally:
        one.close()
        two.close()
    # Nothing was deleted or overwritten.
    assert uids(index) == {"1.1", "1.2", "1.3"} | ours | theirs

"""Four processes, many versions in any order: none that is older wins, and nobody waits for each other."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.central.conftest import KEYS, Index, MakeIndex, PostgresIndex, study
from tests.central.postgres import Cluster

PROCESSES = 4
SENDERS = 8
BATCH = 100
#: So few that every version meets another.
STUDIES = 200
CENTERS: dict[str, str] = KEYS["centers"]
MANY = pytest.param(1_000_000, marks=[pytest.mark.soak, pytest.mark.timeout(3 * 3600)])

Key = tuple[str, str]


class Sent:
    """The highest version of each study that was sent, and that was accepted; what was answered."""

    def __init__(self) -> None:
        self.highest: dict[Key, int] = {}
        self.accepted: dict[Key, int] = {}
        self.statuses: set[int] = set()
        self._lock = threading.Lock()

    def send(self, urls: list[str], number: int, versions: int) -> None:
        """One sender's part: arrays mostly, some alone, some of them deletions, a twentieth twice."""
        rng = random.Random(number)
        with requests.Session() as session:
            session.trust_env = False
            for some in _parts(rng, versions):
                center = rng.choice(list(CENTERS))
                wanted = [(f"1.2.840.{rng.randrange(STUDIES)}", rng.randrange(1, 10**9)) for _ in range(some)]
                with self._lock:
                    for iuid, version in wanted:
                        self.highest[center, iuid] = max(version, self.highest.get((center, iuid), 0))
                for _ in range(2 if rng.random() < 0.05 else 1):
                    url = f"{rng.choice(urls)}/api/v1/register"
                    self._answered(center, wanted, self._ask(session, center, wanted, url))

    def _ask(
        self,
        session: requests.Session,
        center: str,
        wanted: list[tuple[str, int]],
        url: str,
    ) -> list[int]:
        headers = {"X-Api-Key": CENTERS[center]}
        if len(wanted) > 1:
            batch = [
                _document(center, *one) | {"version": one[1], "idempotency_key": str(one)} for one in wanted
            ]
            answer = session.post(url, json=batch, headers=headers, timeout=60)
            assert answer.status_code == 207, answer.text
            return [one["status"] for one in answer.json()["results"]]
        ((iuid, version),) = wanted
        headers |= {"Study-Version": str(version), "Idempotency-Key": str(wanted[0])}
        # Whether it deletes goes with the version: what is sent twice is the same twice.
        if version % 3 == 0:
            answer = session.delete(f"{url}/{iuid}", headers=headers, timeout=60)
        else:
            answer = session.post(url, json=_document(center, iuid, version), headers=headers, timeout=60)
        return [answer.status_code]

    def _answered(self, center: str, wanted: list[tuple[str, int]], statuses: list[int]) -> None:
        with self._lock:
            self.statuses.update(statuses)
            for (iuid, version), status in zip(wanted, statuses, strict=True):
                if status in (200, 201, 404):
                    self.accepted[center, iuid] = max(version, self.accepted.get((center, iuid), 0))


def _parts(rng: random.Random, versions: int) -> Iterator[int]:
    while versions > 0:
        part = min(versions, rng.choice([1, 1, 1, BATCH, BATCH]))
        versions -= part
        yield part


def _document(center: str, iuid: str, version: int) -> dict[str, Any]:
    return study(int(iuid.rpartition(".")[2]), center=center, study_iuid=iuid, study_description=str(version))


def check(urls: list[str], index: Index, versions: int) -> None:
    sent = Sent()
    with ThreadPoolExecutor(SENDERS) as pool:
        list(pool.map(lambda number: sent.send(urls, number, versions // SENDERS), range(SENDERS)))
    assert sent.statuses <= {200, 201, 404, 409}
    assert sent.accepted == sent.highest
    rows = index.rows("SELECT center, study_iuid, version, deleted, study_description FROM studies")
    assert {(center, iuid): version for center, iuid, version, _, _ in rows} == sent.highest
    # And it is that version's document.
    assert [row for row in rows if not row[3] and row[4] != str(row[2])] == []


@pytest.mark.parametrize("versions", [4_000, MANY])
def test_four_processes_keep_the_highest_of_each(
    cluster: Cluster, make_index: MakeIndex, versions: int
) -> None:
    first = make_index(cluster)
    assert isinstance(first, PostgresIndex)
    name = first.database.rpartition("/")[2]
    indexes = [first, *(make_index(database=first.database) for _ in range(PROCESSES - 1))]
    for one in indexes:
        one.start()
    check([one.url for one in indexes], first, versions)
    assert cluster.execute(name, f"SELECT deadlocks FROM pg_stat_database WHERE datname = '{name}'") == [(0,)]
    assert not any("error" in one.log for one in indexes)


@pytest.mark.parametrize("versions", [4_000, MANY])
def test_the_embedded_one_does_too(make_index: MakeIndex, versions: int) -> None:
    index = make_index()
    index.start()
    check([index.url], index, versions)

"""Which version of a study the reference central index keeps, in whatever order requests arrive (Study-Version)."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.central.conftest import KEYS, READER, WRITER, Index, study

FEATURES = "versions, digests, reports, batch=500"
NOW = 1_795_638_845_123_456


def send(
    index: Index, version: int | None, key: str | None = None, iuid: str = "1.2.840.1", **values: Any
) -> requests.Response:
    headers = {} if version is None else {"Study-Version": str(version)}
    if key is not None:
        headers["Idempotency-Key"] = key
    return index.ask(
        "POST", "/api/v1/register", WRITER, json=study(study_iuid=iuid, **values), headers=headers
    )


def delete(
    index: Index, version: int | None, key: str | None = None, iuid: str = "1.2.840.1"
) -> requests.Response:
    headers = {} if version is None else {"Study-Version": str(version)}
    if key is not None:
        headers["Idempotency-Key"] = key
    return index.ask("DELETE", f"/api/v1/register/{iuid}?center=000", WRITER, headers=headers)


def said(answer: requests.Response) -> tuple[int, Any]:
    return answer.status_code, answer.json()


def held(index: Index) -> list[int]:
    return [one["study_instances"] for one in index.studies()]


STORED = (201, {"status": "Ok"})
DELETED = (200, {"status": "Ok"})


def stale(version: int) -> tuple[int, Any]:
    return 409, {"status": "Stale", "version": version}


def test_what_it_can_more_is_said_with_every_answer(index: Index) -> None:
    answers = [
        index.ask("GET", "/api/v1/register", WRITER),
        index.ask("GET", "/api/v1/register", "wrong"),
        send(index, 2),
        send(index, 1),
        index.post([study(2)]),
        index.post(17),
        delete(index, 3),
        index.ask("GET", "/nothing"),
        index.ask("GET", "/api/v1/studies", READER),
    ]
    assert [answer.status_code for answer in answers] == [200, 401, 201, 409, 207, 422, 200, 404, 200]
    assert {answer.headers["Index-Features"] for answer in answers} == {FEATURES}


def test_a_key_says_whose_it_is(index: Index) -> None:
    for center, key in KEYS["centers"].items():
        assert index.ask("GET", "/api/v1/register", key).headers["Index-Center"] == center
    assert "Index-Center" not in index.ask("GET", "/api/v1/register", "wrong").headers


def test_a_higher_version_is_applied_and_a_lower_one_is_not(index: Index) -> None:
    assert said(send(index, NOW, "key-1", study_instances=1)) == STORED
    assert said(send(index, NOW + 5, "key-2", study_instances=2)) == STORED
    assert said(send(index, NOW + 4, "key-3", study_instances=3)) == stale(NOW + 5)
    # Also a repetition of what was accepted once: it is older now.
    assert said(send(index, NOW, "key-1", study_instances=1)) == stale(NOW + 5)
    assert held(index) == [2]


def test_a_higher_version_is_applied_whether_or_not_its_key_is_known(index: Index) -> None:
    send(index, NOW, "key-1", study_instances=1)
    send(index, NOW + 1, "key-2", study_instances=2)
    assert said(send(index, NOW + 2, "key-1", study_instances=1)) == STORED
    assert held(index) == [1]
    # A key that came without a version, too.
    send(index, None, "key-3", study_instances=3)
    send(index, None, "key-4", study_instances=4)
    version = send(index, NOW + 3, "key-5").json().get("version", NOW + 3)
    assert said(send(index, version + 1, "key-3", study_instances=3)) == STORED
    assert held(index) == [3]


def test_an_equal_version_is_known_by_key_and_document(index: Index) -> None:
    assert said(send(index, NOW, "key-1")) == STORED
    assert said(send(index, NOW, "key-1")) == STORED
    assert index.studies()[0]["versions"] == 1
    assert said(send(index, NOW, "key-2")) == stale(NOW)
    assert said(send(index, NOW, None)) == stale(NOW)
    assert said(send(index, NOW, "key-1", study_instances=1)) == stale(NOW)
    assert said(delete(index, NOW, "key-1")) == stale(NOW)
    assert held(index) == [412]


def test_a_deletion_is_a_version(index: Index) -> None:
    send(index, NOW, study_instances=1)
    assert said(delete(index, NOW - 1)) == stale(NOW)
    assert said(delete(index, NOW + 2, "key-1")) == DELETED
    assert held(index) == []
    assert said(delete(index, NOW + 2, "key-1")) == DELETED
    assert said(delete(index, NOW + 2, "key-2")) == stale(NOW + 2)
    assert said(send(index, NOW + 1, study_instances=2)) == stale(NOW + 2)
    assert said(send(index, NOW + 2, "key-1", study_instances=2)) == stale(NOW + 2)
    assert held(index) == []
    assert said(send(index, NOW + 3, study_instances=3)) == STORED
    assert held(index) == [3]
    assert index.studies()[0]["versions"] == 1


def test_a_deletion_of_an_unknown_study_is_kept_too(index: Index) -> None:
    assert delete(index, NOW).status_code == 404
    assert said(send(index, NOW - 1)) == stale(NOW)
    assert held(index) == []
    assert said(send(index, NOW + 1)) == STORED
    # And one without a version counts as now.
    assert delete(index, None, iuid="1.2.840.2").status_code == 404
    answer = send(index, 1000, iuid="1.2.840.2")
    assert answer.status_code == 409
    assert abs(answer.json()["version"] / 1e6 - time.time()) < 60


def test_a_tombstone_holds_nothing_of_a_patient(index: Index) -> None:
    send(index, NOW, note="XQZPATIENT")
    delete(index, NOW + 1)
    (row,) = index.rows("SELECT * FROM studies")
    assert not {"26267267-K", "PEÑA^JOSÉ", "CT THORAX"} & {str(value) for value in row}
    assert "XQZ" not in str(row)


def test_a_request_without_a_version_counts_as_now_or_as_one_more(index: Index) -> None:
    before = time.time_ns() // 1000
    assert said(send(index, None, study_instances=1)) == STORED
    assert said(send(index, before - 1, study_instances=2))[0] == 409
    ahead = time.time_ns() // 1000 + 10**12
    assert said(send(index, ahead, study_instances=3)) == STORED
    assert said(send(index, None, study_instances=4)) == STORED
    assert said(send(index, ahead, study_instances=5)) == stale(ahead + 1)
    assert said(delete(index, None)) == DELETED
    assert said(send(index, ahead + 1, study_instances=6)) == stale(ahead + 2)
    assert said(send(index, None, study_instances=7)) == STORED
    assert held(index) == [7]


def test_the_highest_version_of_all_does_no_harm(index: Index) -> None:
    highest = 2**63 - 1
    assert said(send(index, highest, study_instances=1)) == STORED
    assert said(send(index, highest - 1, study_instances=2)) == stale(highest)
    assert said(send(index, None, "key-1", study_instances=3)) == STORED
    assert held(index) == [3]


@pytest.mark.parametrize("version", ["", "0", "-1", "x", "1.5", str(2**63), "1" * 400, "٣"])
def test_what_is_no_version_is_refused(shared_index: Index, version: str) -> None:
    headers = {"Study-Version": version.encode()}
    answer = shared_index.ask("POST", "/api/v1/register", WRITER, json=study(), headers=headers)
    assert answer.status_code == 400
    assert answer.json()["reason"] == "Study-Version must be a whole number from 1 to 9223372036854775807."
    assert shared_index.ask("DELETE", "/api/v1/register/1", WRITER, headers=headers).status_code == 400
    assert shared_index.studies() == []


def test_each_element_of_a_batch_has_its_own_version_and_status(index: Index) -> None:
    send(index, NOW + 10, "key-0", iuid="1.2.840.2")
    batch = [
        study(1, idempotency_key="key-1", version=NOW),
        study(2, idempotency_key="key-2", version=NOW),
        study(3, idempotency_key="key-3"),
        study(4, idempotency_key="key-4", version="x"),
        study(5, idempotency_key="key-5", version=0),
        study(1, idempotency_key="key-6", version=NOW + 1, study_instances=6),
        study(1, idempotency_key="key-7", version=NOW, study_instances=7),
        study(6, center="111", version=NOW),
    ]
    results = index.post(batch).json()["results"]
    assert [result["status"] for result in results] == [201, 409, 201, 422, 422, 201, 409, 403]
    assert [result.get("version") for result in results] == [None, NOW + 10, *[None] * 4, NOW + 1, None]
    assert {one["study_iuid"][-1]: one["study_instances"] for one in index.studies()} == {
        "1": 6,
        "2": 412,
        "3": 412,
    }
    assert not any("version" in one for one in index.studies())
    # Answered as before; what another request has superseded since is stale.
    again = index.post(batch).json()["results"]
    assert [result["status"] for result in again] == [409, 409, 201, 422, 422, 201, 409, 403]


def test_a_large_batch_keeps_what_is_newer_and_says_what_isnt(index: Index) -> None:
    # More than one statement of rows, with what must be looked at among them.
    known = range(0, 150, 7)
    index.post([{**study(number), "version": NOW + 10, "idempotency_key": "a"} for number in known])
    for number in (3, 7):
        delete(index, NOW + 20, iuid=f"1.2.840.{number}")
    batch = [
        {**study(number, study_instances=1_000), "version": NOW + (30 if number % 2 else 5)}
        for number in range(150)
    ]
    twice = {**study(149, study_instances=2_000), "version": NOW + 31}
    answer = index.post([*batch, twice, study(200, center="111"), study(201, study_series="three")])
    results = answer.json()["results"]
    expected = [
        {"status": 409, "reason": "Stale", "version": NOW + 10} if number % 14 == 0 else {"status": 201}
        for number in range(150)
    ]
    assert results[:151] == [*expected, {"status": 201}]
    assert [one["status"] for one in results[151:]] == [403, 422]
    for number, instances in ((0, 412), (1, 1_000), (2, 1_000), (3, 1_000), (7, 1_000), (149, 2_000)):
        (one,) = index.studies(study_iuid=f"1.2.840.{number}")
        assert one["study_instances"] == instances
    again = index.post(batch).json()["results"]
    assert [one["status"] for one in again] == [
        409 if number in (*known[::2], 149) else 201 for number in range(150)
    ]


def test_versions_are_each_centres_own(index: Index) -> None:
    send(index, NOW + 10)
    headers = {"Study-Version": str(NOW)}
    answer = index.ask(
        "POST", "/api/v1/register", KEYS["centers"]["111"], json=study(center="111"), headers=headers
    )
    assert said(answer) == STORED


def test_in_whatever_order_they_arrive_the_highest_stays(index: Index) -> None:
    """Many at once, with repetitions; a third of them deletions."""
    rng = random.Random(17)
    numbers = [(study_number, version) for study_number in range(20) for version in range(1, 16)]
    requests_ = numbers + rng.sample(numbers, 100)
    rng.shuffle(requests_)

    def one(request: tuple[int, int]) -> int:
        number, version = request
        iuid = f"1.2.840.{number}"
        if version % 3 == 0:
            return delete(index, version, f"{number}/{version}", iuid).status_code
        return send(
            index, version, f"{number}/{version}", iuid, study_instances=version, study_pk=number
        ).status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = set(pool.map(one, requests_))
    assert statuses <= {200, 201, 404, 409}
    assert index.studies() == []
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: one((number, 16)), range(20)))
        list(pool.map(one, requests_))
    assert held(index) == [16] * 20


def test_versions_survive_a_kill(index: Index) -> None:
    send(index, NOW + 1)
    delete(index, NOW + 5, iuid="1.2.840.2")
    index.stop(9)
    index.start()
    assert said(send(index, NOW)) == stale(NOW + 1)
    assert said(send(index, NOW, iuid="1.2.840.2")) == stale(NOW + 5)


def test_tombstones_are_kept_for_90_days_and_a_centres_highest_for_good(index: Index) -> None:
    for number, version in ((1, NOW + 1), (2, NOW + 9)):
        delete(index, version, iuid=f"1.2.840.{number}")
    index.execute(f"UPDATE studies SET received_at = received_at - {89.9 * 86_400}")
    send(index, NOW + 2, iuid="1.2.840.3")
    index.forget()
    assert said(send(index, NOW)) == stale(NOW + 1)
    index.execute(f"UPDATE studies SET received_at = received_at - {0.2 * 86_400}")
    send(index, NOW + 3, iuid="1.2.840.3")
    index.forget()
    assert said(send(index, NOW)) == STORED
    assert said(send(index, NOW, iuid="1.2.840.2")) == stale(NOW + 9)
    # A study is no tombstone, however old it is.
    assert len(index.studies()) == 2

"""What centres may do with the reference central index."""

from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.central.conftest import KEYS, READER, WRITER, Index, study


def test_a_study_is_taken_and_held_as_it_was_sent(index: Index) -> None:
    answer = index.post(study())
    assert (answer.status_code, answer.json()) == (201, {"status": "Ok"})
    (held,) = index.studies()
    assert {name: held[name] for name in study()} == study()


def test_absent_values_are_null(index: Index) -> None:
    sent = study(
        patient_pk=None,
        patient_id=None,
        patient_name=None,
        study_datetime=None,
        study_description=None,
        study_modality=None,
        study_series=None,
        study_instances=0,
    )
    assert index.post(sent).status_code == 201
    (held,) = index.studies()
    assert {name: held[name] for name in sent} == sent


def test_a_later_version_replaces_the_earlier(index: Index) -> None:
    index.post(study(study_instances=1))
    index.post(study(study_instances=412, patient_name="PEÑA^MARÍA"))
    (held,) = index.studies()
    assert (held["study_instances"], held["patient_name"], held["versions"]) == (412, "PEÑA^MARÍA", 2)
    assert held["received_at"] > held["first_received_at"]
    assert index.studies(patient="jose") == []
    assert len(index.studies(patient="maria")) == 1


def test_a_repeated_idempotency_key_changes_nothing(index: Index) -> None:
    index.post(study(study_instances=1), "key-1")
    index.post(study(study_instances=2), "key-2")
    answer = index.post(study(study_instances=1), "key-1")
    assert (answer.status_code, answer.json()) == (201, {"status": "Ok"})
    (held,) = index.studies()
    assert (held["study_instances"], held["versions"]) == (2, 2)


def test_two_centres_may_use_one_idempotency_key_and_one_study_iuid(index: Index) -> None:
    index.post(study(), "key-1")
    index.post(study(center="111"), "key-1", KEYS["centers"]["111"])
    assert sorted(held["center"] for held in index.studies()) == ["000", "111"]


@pytest.mark.parametrize("key", [None, "", "wrong", "é"])
def test_a_wrong_key_is_401(shared_index: Index, key: str | None) -> None:
    headers = {} if key is None else {"X-Api-Key": key.encode("latin1")}
    answer = shared_index.ask("POST", "/api/v1/register", json=study(), headers=headers)
    assert (answer.status_code, answer.json()["status"]) == (401, "Error")
    assert shared_index.studies() == []


def test_a_key_writes_for_its_own_centre_only(index: Index) -> None:
    assert index.post(study(center="111")).status_code == 403
    assert index.ask("DELETE", "/api/v1/register/1.2?center=111", WRITER).status_code == 403
    assert index.post(study(), key=READER).status_code == 403
    assert index.studies() == []


def test_a_key_can_be_tried_without_leaving_a_study(index: Index) -> None:
    answer = index.ask("GET", "/api/v1/register", WRITER)
    assert (answer.status_code, answer.json()) == (200, [])
    assert index.ask("GET", "/api/v1/register", "wrong").status_code == 401


def _without(name: str) -> dict[str, Any]:
    return {key: value for key, value in study().items() if key != name}


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (_without("study_instances"), "study_instances: Field required."),
        (study(study_iuid=""), "study_iuid: String should have at least 1 character."),
        (study(study_iuid=None), "study_iuid: Input should be a valid string."),
        (study(study_pk="17"), "study_pk: Input should be a valid integer."),
        (study(study_pk=True), "study_pk: Input should be a valid integer."),
        (study(study_pk=2**63), "study_pk: Input should be less than or equal to 9223372036854775807."),
        (study(study_series=-1), "study_series: Input should be greater than or equal to 0."),
        (study(study_instances=1.5), "study_instances: Input should be a valid integer."),
        (study(patient_name=7), "patient_name: Input should be a valid string."),
        (study(patient_name="x" * 251), "patient_name: String should have at most 250 characters."),
        (study(study_datetime="None"), "study_datetime: must be YYYY-MM-DD HH:MM:SS, or null."),
        (study(study_datetime="2026-3-1 9:30"), "study_datetime: must be YYYY-MM-DD HH:MM:SS, or null."),
        (study(study_datetime="2026-02-30 09:30:00"), "study_datetime: is no moment of the calendar."),
        (
            study(study_datetime="٢٠٢٦-03-01 09:30:00"),
            "study_datetime: must be YYYY-MM-DD HH:MM:SS, or null.",
        ),
        (study(**{f"f{n}": 1 for n in range(33)}), "more than 32 fields beyond the eleven."),
        (study(accession="x" * 1001), "a field beyond the eleven is longer than 1000 characters."),
        (study(accession=2**63), "a number beyond the eleven fields is too large."),
        ("PEÑA^JOSÉ", "A study must be a JSON object."),
        (17, "A study must be a JSON object."),
    ],
)
def test_a_bad_study_is_422_with_a_reason(shared_index: Index, document: Any, reason: str) -> None:
    answer = shared_index.post(document)
    assert (answer.status_code, answer.json()) == (422, {"status": "Error", "reason": reason})
    assert shared_index.studies() == []


def test_the_key_of_what_was_refused_is_good_once_the_study_is_mended(index: Index) -> None:
    assert index.post(study(study_pk="1"), "key-1").status_code == 422
    assert index.post(study(), "key-1").status_code == 201
    assert len(index.studies()) == 1


def test_no_reason_and_no_log_repeats_a_value(index: Index) -> None:
    secret = "XQZPATIENT"
    for values in (
        {"patient_pk": secret},
        {"study_datetime": secret},
        {"patient_name": [secret]},
        {secret: [secret]},
        {"study_iuid": secret * 100},
        {"center": secret},
    ):
        answer = index.post(study(**values))
        assert answer.status_code in (403, 422)
        assert secret not in answer.text
    assert secret not in index.log
    assert "A study was refused." in index.log


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b'{"a": NaN}',
        b"[" * 100_000,
        json.dumps(study()).encode()[:-1] + b', "study_pk": 2}',
        json.dumps(study()).encode("utf-16"),
    ],
)
def test_what_isnt_json_is_400(shared_index: Index, body: bytes) -> None:
    assert shared_index.ask("POST", "/api/v1/register", WRITER, data=body).status_code == 400
    assert shared_index.ask("GET", "/api/v1/register", WRITER).status_code == 200


def test_a_lone_surrogate_is_refused_not_a_crash(index: Index) -> None:
    document = json.dumps(study(patient_name="\ud800")).encode()
    assert index.ask("POST", "/api/v1/register", WRITER, data=document).status_code == 422
    document = json.dumps(study(note="\ud800")).encode()
    assert index.ask("POST", "/api/v1/register", WRITER, data=document).status_code == 422
    document = json.dumps(study(**{"\ud800": 1})).encode()
    assert index.ask("POST", "/api/v1/register", WRITER, data=document).status_code == 422
    assert index.post(study()).status_code == 201


def test_a_body_that_is_too_large_is_413(index: Index) -> None:
    answer = index.ask("POST", "/api/v1/register", WRITER, data=b" " * (4 * 1024 * 1024 + 1))
    assert answer.status_code == 413


def test_further_fields_are_kept(index: Index) -> None:
    index.post(study(accession_number="A-1", urgent=True, versions=99))
    (held,) = index.studies()
    assert (held["accession_number"], held["urgent"]) == ("A-1", True)
    # What the index itself says of a study isn't for the centre to say.
    assert held["versions"] == 1


def test_a_batch_answers_for_each_study(index: Index) -> None:
    batch = [
        study(1, idempotency_key="key-1"),
        study(2, study_pk="two", idempotency_key="key-2"),
        study(3, center="111", idempotency_key="key-3"),
        study(4, idempotency_key="key-4"),
    ]
    answer = index.post(batch, "key-of-the-batch")
    assert [result["status"] for result in answer.json()["results"]] == [201, 422, 403, 201]
    assert [held["study_pk"] for held in index.studies()] == [4, 1]
    assert "idempotency_key" not in index.studies()[0]
    # Alone, one of them is known again by its own key.
    index.post(study(4, study_instances=1), "key-4")
    assert index.studies()[0]["study_instances"] == 412


def test_a_batch_may_be_empty_but_not_endless(index: Index) -> None:
    assert index.post([]).json() == {"status": "Ok", "results": []}
    assert index.post([1] * 1001).status_code == 413


def test_a_study_is_deleted_and_stored_again(index: Index) -> None:
    index.post(study(), "key-1")
    path = "/api/v1/register/1.2.840.1"
    first = index.ask("DELETE", path, WRITER, params={"center": "000"}, headers={"Idempotency-Key": "key-2"})
    assert first.status_code == 200
    assert index.studies() == []
    assert index.studies(patient="jose") == []
    assert index.ask("DELETE", path, WRITER).status_code == 404
    index.post(study(), "key-3")
    # A late repetition of the deletion doesn't delete what was stored since.
    again = index.ask("DELETE", path, WRITER, headers={"Idempotency-Key": "key-2"})
    assert again.status_code == 200
    assert len(index.studies()) == 1


def test_another_method_or_address_is_an_error_in_json(index: Index) -> None:
    assert index.ask("PUT", "/api/v1/register", WRITER).status_code == 405
    answer = index.ask("GET", "/nothing", WRITER)
    assert (answer.status_code, answer.json()["status"]) == (404, "Error")


def test_many_at_once_are_all_kept(index: Index) -> None:
    with ThreadPoolExecutor(8) as pool:
        statuses = set(pool.map(lambda n: index.post(study(n), f"key-{n}").status_code, range(1, 301)))
    assert statuses == {201}
    assert index.ask("GET", "/api/v1/studies", READER).json()["total"] == 300


def test_what_was_accepted_survives_a_kill(index: Index) -> None:
    for number in range(1, 21):
        assert index.post(study(number), f"key-{number}").status_code == 201
    index.stop(signal.SIGKILL)
    index.start()
    assert [held["study_pk"] for held in index.studies()] == list(range(20, 0, -1))
    index.post(study(1, study_instances=1), "key-1")
    assert index.studies(study_iuid="1.2.840.1")[0]["study_instances"] == 412


def test_a_key_that_is_taken_out_is_refused_at_once(index: Index) -> None:
    assert index.post(study()).status_code == 201
    index.write_keys({"centers": {"000": "another-key-of-000"}, "readers": KEYS["readers"]})
    assert index.post(study()).status_code == 401
    assert index.post(study(), key="another-key-of-000").status_code == 201
    # Half written by an editor: what was read last counts.
    (index.directory / "keys.json").write_text('{"centers": {')
    assert index.post(study(), key="another-key-of-000").status_code == 201

"""Digests over HTTP: archive and index compare without sending studies."""

from __future__ import annotations

from typing import Any

import pytest

from central_index.digests import range_digest, study_digest
from tests.central.conftest import KEYS, READER, WRITER, Index, study

EMPTY = {"count": 0, "digest": "0" * 32}


def ask(index: Index, *ranges: list[int | None], **more: Any) -> list[dict[str, Any]]:
    answer = index.ask("POST", "/api/v1/register/digests", WRITER, json={"ranges": ranges, **more})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["ranges"]
    return found


def of(*studies: dict[str, Any]) -> dict[str, Any]:
    return {"count": len(studies), "digest": range_digest(map(study_digest, studies))}


def test_a_range_is_the_sum_of_its_studies(index: Index) -> None:
    studies = [study(number) for number in (1, 2, 3, 10, 11)]
    index.post(studies)
    one, two, three, ten, eleven = studies
    assert ask(index, [0, None]) == [of(*studies)]
    assert ask(index, [None, None]) == [of(*studies)]
    # after < study_pk <= until
    assert ask(index, [1, 3], [3, 10], [10, None], [11, None], [0, 0], [5, 2]) == [
        of(two, three), of(ten), of(eleven), EMPTY, EMPTY, EMPTY,
    ]  # fmt: skip
    assert ask(index, [None, 1], [-5, 1]) == [of(one), of(one)]
    assert ask(index) == []


def test_a_list_names_each_study(index: Index) -> None:
    studies = [study(number) for number in (3, 1, 2)]
    index.post(studies)
    (found,) = ask(index, [1, None], list=True)
    assert found == {
        **of(study(2), study(3)),
        "studies": [[number, f"1.2.840.{number}", study_digest(study(number)).hex()] for number in (2, 3)],
    }
    assert ask(index, [3, None], list=True) == [{**EMPTY, "studies": []}]
    assert "studies" not in ask(index, [1, None], list=False)[0]


def test_every_value_is_kept_without_loss(index: Index) -> None:
    difficult = [
        study(1, patient_name="PEN\u0303A^JOSE\u0301 😀", study_description="\u2028 \"\\\x7f \t\n\x01"),
        study(2, **{name: None for name in study() if name not in ("study_pk", "study_iuid", "center")}),
        study(3, patient_id="", study_modality=" CT ", study_description="x" * 250),
        study(2**63 - 1, patient_pk=2**53 + 1, urgent=True, Zone=None, note=""),
        study(5, a=1.0, b=-0.0, c=1e21, d=1e-7, e=123456789012345680000.0, g=333333333.33333329, h=5e-324, i=2**63 - 1),
        study(6, id=7, versions=8, received_at="x", version=3, ñandú="ñ"),
    ]  # fmt: skip
    for one in difficult:
        assert index.post(one).status_code == 201
    assert ask(index, [None, None]) == [of(*difficult)]
    (found,) = ask(index, [None, None], list=True)
    assert {digest for _, _, digest in found["studies"]} == {study_digest(one).hex() for one in difficult}


@pytest.mark.parametrize(
    "values",
    [{"patient_name": "A\0B"}, {"study_iuid": "1.2\0"}, {"note": "\0"}, {"no\0te": 1}, {"center": "000\0"}],
)
def test_what_cant_be_kept_is_refused(shared_index: Index, values: dict[str, Any]) -> None:
    assert shared_index.post(study(**values)).status_code in (403, 422)
    assert ask(shared_index, [None, None]) == [EMPTY]


def test_a_digest_follows_each_version_and_leaves_out_what_is_deleted(index: Index) -> None:
    index.post([study(1), study(2)])
    index.post(study(1, study_instances=1, dose="1.5"))
    assert ask(index, [0, 1]) == [of(study(1, study_instances=1, dose="1.5"))]
    index.post(study(1, study_pk=5, study_iuid="1.2.840.1"))
    assert ask(index, [0, 1], [4, 5]) == [EMPTY, of(study(5, study_iuid="1.2.840.1"))]
    index.ask("DELETE", "/api/v1/register/1.2.840.1", WRITER)
    assert ask(index, [0, None], [None, None]) == [of(study(2))] * 2
    assert ask(index, [None, None], list=True)[0]["count"] == 1


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        ("UPDATE studies SET patient_name = 'X' WHERE study_pk = 1", [{"patient_name": "X"}, {}]),
        ("UPDATE studies SET study_description = NULL", [{"study_description": None}] * 2),
        ("UPDATE studies SET study_pk = 3 WHERE study_pk = 1", [{"study_pk": 3}, {}]),
        ("UPDATE studies SET study_instances = 7 WHERE study_pk = 2", [{}, {"study_instances": 7}]),
        ("UPDATE studies SET more = '{\"x\": 1.0}' WHERE study_pk = 2", [{}, {"x": 1}]),
        ("DELETE FROM studies WHERE study_pk = 2", [{}]),
        ("UPDATE studies SET center = '111' WHERE study_pk = 2", [{}]),
        (
            "UPDATE studies SET patient_name = 'X' WHERE study_pk = 1; UPDATE studies SET patient_name = 'PEÑA^JOSÉ'",
            [{}, {}],
        ),
        (
            "INSERT INTO studies (study_pk, study_iuid, center, more, first_received_at, received_at, versions) "
            "VALUES (9, '9', '000', '{}', {now}, {now}, 1)",
            [{}, {}, {**dict.fromkeys(study()), "study_pk": 9, "study_iuid": "9", "center": "000"}],
        ),
    ],
)
def test_a_digest_follows_what_is_changed_by_hand(
    index: Index, edit: str, expected: list[dict[str, Any]], listed: bool
) -> None:
    index.post([study(1), study(2)])
    ask(index, [0, None])
    index.execute(edit.replace("{now}", index.now))
    studies = [{**study(number), **values} for number, values in enumerate(expected, 1)]
    (found,) = ask(index, [None, None], list=listed)
    found.pop("studies", None)
    assert found == of(*studies)
    # And the index's own next version counts again.
    index.post(study(1, study_instances=99))
    assert study_digest(study(1, study_instances=99)).hex() in str(ask(index, [None, None], list=True))


def test_what_is_changed_by_hand_is_found_as_it_is_now(index: Index) -> None:
    index.post([study(1), study(2)])
    index.execute("UPDATE studies SET patient_name = 'NUÑEZ^EVA', study_modality = 'US' WHERE study_pk = 1")
    assert [one["study_pk"] for one in index.studies(patient="nunez")] == [1]
    assert [one["study_pk"] for one in index.studies(patient="pena")] == [2]
    assert [one["study_pk"] for one in index.studies(modality="US")] == [1]


@pytest.mark.parametrize("moment", ["2026-03-01", "", "1.3.2026 9:30", pytest.param("é" * 100, id="long")])
def test_a_moment_in_another_form_hides_no_page_behind_it(index: Index, moment: str) -> None:
    index.post([study(1), study(2), study(3)])
    index.execute(f"UPDATE studies SET study_datetime = '{moment}' WHERE study_pk < 3")
    found: list[int] = []
    after: str | None = None
    for _ in range(4):
        answer = index.ask("GET", "/api/v1/studies", READER, params={"limit": 1, "after": after})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += [one["study_pk"] for one in page["studies"]]
        after = page["next"]
        if after is None:
            break
    assert sorted(found) == [1, 2, 3]


@pytest.mark.parametrize("more", ["[1]", '{"ward": 1e999}', '{"ward": "\\ud800"}'])
def test_one_row_that_was_spoilt_by_hand_spoils_no_search(index: Index, more: str) -> None:
    """It counts as one without further fields, so that its centre finds it and sends it again."""
    index.post([study(1, ward="A"), study(2)])
    index.execute(f"UPDATE studies SET more = '{more}' WHERE study_pk = 1")
    assert sorted(one["study_pk"] for one in index.studies()) == [1, 2]
    assert ask(index, [None, None]) == [of(study(1), study(2))]
    index.post(study(1, ward="A"))
    assert ask(index, [None, None]) == [of(study(1, ward="A"), study(2))]


def test_each_centre_compares_its_own(index: Index) -> None:
    index.post(study())
    index.post(study(center="111"), key=KEYS["centers"]["111"])
    assert ask(index, [None, None]) == [of(study())]
    for key, status in ((None, 401), ("wrong", 401), (READER, 403)):
        answer = index.ask("POST", "/api/v1/register/digests", key, json={"ranges": [[None, None]]})
        assert answer.status_code == status


def test_there_are_limits(index: Index) -> None:
    def status(**question: Any) -> int:
        return index.ask("POST", "/api/v1/register/digests", WRITER, json=question).status_code

    assert status(ranges=[[0, 1]] * 1000) == 200
    assert status(ranges=[[0, 1]] * 1001) == 413
    for first in range(0, 10_000, 1000):
        index.post([study(number) for number in range(first + 1, first + 1001)])
    assert status(ranges=[[0, 5000], [5000, None]], list=True) == 200
    index.post(study(10_001))
    assert status(ranges=[[0, None]], list=True) == 413
    assert status(ranges=[[0, 5000], [5000, None]], list=True) == 413
    assert status(ranges=[[0, 5000], [0, 5000]], list=True) == 200
    assert status(ranges=[[0, None]]) == 200


@pytest.mark.parametrize(
    "question",
    [
        [], "x", {}, {"ranges": 1}, {"ranges": [1]}, {"ranges": [[1]]}, {"ranges": [[1, 2, 3]]},
        {"ranges": [[1, "2"]]}, {"ranges": [[True, 2]]}, {"ranges": [[1.5, 2]]}, {"ranges": [[0, 2**63]]},
        {"ranges": [], "list": 1}, {"ranges": [], "list": None},
    ],
)  # fmt: skip
def test_what_is_no_question_is_422(shared_index: Index, question: Any) -> None:
    answer = shared_index.ask("POST", "/api/v1/register/digests", WRITER, json=question)
    assert (answer.status_code, answer.json()["status"]) == (422, "Error")

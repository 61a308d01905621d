"""The JSON of a study: the eleven keys, their order and their types."""

from __future__ import annotations

import json
from datetime import date, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_indexer.model.errors import InvalidStudy
from cdc_indexer.model.study import KEYS, study_json

STUDY: dict[str, object] = {
    "patient_pk": 17,
    "patient_id": "26267267-K",
    "patient_name": "PEÑA^JOSÉ",
    "study_pk": 4711,
    "study_iuid": "1.2.840.1",
    "study_datetime": datetime(2026, 3, 1, 9, 30),
    "study_description": "TÓRAX \\ ABDOMEN",
    "study_modality": "CT\\SR",
    "study_series": 3,
    "study_instances": 412,
}


def test_the_eleven_keys_in_their_order() -> None:
    assert (
        study_json(STUDY, "000")
        == (
            '{"patient_pk": 17, "patient_id": "26267267-K", "patient_name": "PEÑA^JOSÉ", "study_pk": 4711, '
            '"study_iuid": "1.2.840.1", "study_datetime": "2026-03-01 09:30:00", '
            '"study_description": "TÓRAX \\\\ ABDOMEN", "study_modality": "CT\\\\SR", "study_series": 3, '
            '"study_instances": 412, "center": "000"}'
        ).encode()
    )


def test_absent_values_are_null() -> None:
    document = json.loads(study_json({"study_pk": 1, "study_iuid": "1.2"}, "000"))
    assert tuple(document) == KEYS
    assert {key for key, value in document.items() if value is None} == set(KEYS) - {
        "study_pk",
        "study_iuid",
        "center",
    }


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 3, 1), "2026-03-01 00:00:00"),
        (datetime(2026, 3, 1, 23, 59, 59, 999999), "2026-03-01 23:59:59"),
        (date(2026, 3, 1), "2026-03-01 00:00:00"),
        (datetime(33, 1, 2, 3, 4, 5), "0033-01-02 03:04:05"),
        ("2026-03-01 09:30:00", "2026-03-01 09:30:00"),
        ("0000-00-00 00:00:00", None),
        ("2026-02-00 00:00:00", None),
        (None, None),
    ],
)
def test_dates(moment: object, text: str | None) -> None:
    assert json.loads(study_json({**STUDY, "study_datetime": moment}, "000"))["study_datetime"] == text


def test_counts_that_a_view_sums_up_are_whole_numbers() -> None:
    document = json.loads(
        study_json({**STUDY, "study_series": Decimal(3), "study_instances": Decimal("412")}, "000")
    )
    assert (document["study_series"], document["study_instances"]) == (3, 412)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("study_pk", None),
        ("study_pk", 0),
        ("study_iuid", None),
        ("study_iuid", ""),
        ("study_series", "3"),
        ("study_series", True),
        ("study_series", Decimal("1.5")),
        ("patient_name", ["x"]),
        ("patient_name", b"\xff"),
        ("patient_name", "\ud800"),
        ("study_datetime", 5),
    ],
)
def test_what_cannot_be_a_study_is_refused_without_its_value(column: str, value: object) -> None:
    with pytest.raises(InvalidStudy) as caught:
        study_json({**STUDY, column: value}, "000")
    assert "PEÑA" not in str(caught.value)
    if value not in (None, "", 0):
        assert str(value) not in str(caught.value).replace(column, "")


def test_more_fields_come_after_the_eleven() -> None:
    document = json.loads(
        study_json(
            {**STUDY, "accession_no": "A1", "seen": datetime(2026, 1, 1)},
            "000",
            {"accession_number": "accession_no", "seen_at": "seen", "gone": "nowhere"},
        )
    )
    assert tuple(document) == (*KEYS, "accession_number", "seen_at", "gone")
    assert document["accession_number"] == "A1"
    assert document["seen_at"] == "2026-01-01 00:00:00"
    assert document["gone"] is None


@given(st.text(max_size=250), st.integers(0, 2**63 - 1))
def test_any_text_survives(text: str, number: int) -> None:
    document = json.loads(study_json({**STUDY, "patient_name": text, "patient_pk": number}, "000"))
    assert document["patient_name"] == text
    assert document["patient_pk"] == number


texts = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
numbers = st.none() | st.integers(0, 2**64 - 1)


@given(
    st.fixed_dictionaries(
        {
            "patient_pk": numbers,
            "patient_id": texts,
            "patient_name": texts,
            "study_pk": st.integers(1, 2**64 - 1),
            "study_iuid": st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30),
            "study_datetime": st.none() | st.datetimes().map(lambda moment: moment.replace(microsecond=0)),
            "study_description": texts,
            "study_modality": texts,
            "study_series": numbers,
            "study_instances": numbers,
        }
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    texts,
)
def test_the_text_is_what_the_json_module_would_write(
    values: dict[str, object], center: str, extra: object
) -> None:
    document = {key: values.get(key) for key in KEYS}
    document.update({"center": center, 'a "name"': extra})
    moment = values["study_datetime"]
    document["study_datetime"] = moment.isoformat(" ") if isinstance(moment, datetime) else None
    written = study_json({**values, "accession_no": extra}, center, {'a "name"': "accession_no"})
    assert written == json.dumps(document, ensure_ascii=False).encode()

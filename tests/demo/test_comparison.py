"""The comparison at the end of the demo: what it must call a difference."""

from __future__ import annotations

from typing import Any

import pytest

from extras.demo.comparison import compare

STUDY: dict[str, Any] = {"study_iuid": "1.2.3", "patient_name": "PEÑA^JOSÉ", "study_instances": 1}


def test_equal_studies_dont_differ_whatever_else_the_index_knows() -> None:
    assert compare([STUDY], [{**STUDY, "received_at": "2026-11-24T10:00:00"}]) == []


@pytest.mark.parametrize(
    ("indexed", "what"),
    [
        ([], "the index doesn't hold it"),
        ([STUDY, STUDY], "the index holds it twice"),
        ([{**STUDY, "study_instances": 2}], "study_instances differs"),
        ([{**STUDY, "study_instances": True}], "study_instances differs"),
        ([{**STUDY, "study_instances": "1"}], "study_instances differs"),
        ([{**STUDY, "patient_name": None}], "patient_name differs"),
        ([{"study_iuid": "1.2.3"}], "patient_name, study_instances differ"),
        ([STUDY, {**STUDY, "study_iuid": "1.2.4"}], "the archive doesn't hold it"),
    ],
)
def test_differences(indexed: list[dict[str, Any]], what: str) -> None:
    assert [difference.what for difference in compare([STUDY], indexed)] == [what]

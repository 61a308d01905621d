"""A search as CSV (pure)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

COLUMNS = (
    "center", "study_iuid", "study_datetime", "patient_id", "patient_name", "study_description", "study_modality",
    "study_series", "study_instances", "first_received_at",
)  # fmt: skip
#: What a spreadsheet would take for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def heading() -> str:
    # A spreadsheet knows by this mark that it is UTF-8.
    return "\ufeff" + _lines([COLUMNS])


def as_csv(studies: Iterable[Mapping[str, Any]]) -> str:
    return _lines([_cell(study.get(column)) for column in COLUMNS] for study in studies)


def cut_short(number: int) -> str:
    """The last line, where there are more: no centre, and no study, so that nobody takes a part for the whole."""
    said = f"INCOMPLETE, cut after {number:,} studies / INCOMPLETO, cortado tras {number:,} estudios"
    return _lines([[said, *[""] * (len(COLUMNS) - 1)]])


def _lines(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value

"""What a reader may look for, from what was asked (pure)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import date
from typing import Any

from central_index.document import Rejected
from central_index.model import Filters, Place

_LARGEST_PAGE = 500


def _as_date(value: str) -> str:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", value, re.ASCII):
        raise ValueError
    return date.fromisoformat(value).isoformat()


def _as_text(value: str) -> str:
    if len(value) > 250 or "\0" in value:
        raise ValueError
    value.encode()
    return value


def _as_limit(value: str) -> int:
    if not re.fullmatch(r"\d{1,18}", value, re.ASCII) or not 1 <= int(value) <= _LARGEST_PAGE:
        raise ValueError
    return int(value)


_PLACE = r"^(\d{14}|x([0-9a-f]{2}){0,1000})-\d{1,18}$"


def _as_place(value: str) -> Place:
    if not re.fullmatch(_PLACE, value, re.ASCII):
        raise ValueError
    moment, _, number = value.partition("-")
    if moment.startswith("x"):
        return Place(_as_text(bytes.fromhex(moment[1:]).decode()), int(number))
    return Place(re.sub(r"(....)(..)(..)(..)(..)(..)", r"\1-\2-\3 \4:\5:\6", moment), int(number))


def place_as_text(place: Place) -> str:
    """What an answer says as next."""
    if re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", place.sorted_at, re.ASCII):
        return f"{re.sub('[^0-9]', '', place.sorted_at)}-{place.id}"
    # Somebody wrote it there by hand, or only a part of it.
    return f"x{place.sorted_at.encode().hex()}-{place.id}"


_TEXT = {"type": "string", "maxLength": 250}
_DATE = {"type": "string", "format": "date"}
#: By the name under which they are asked for: field, how it is read, what it must be, and the same for machines.
FILTERS: dict[str, tuple[str, Callable[[str], Any], str, dict[str, Any]]] = {
    "patient": ("patient", _as_text, "words of at most 250 characters", _TEXT),
    "patient_id": ("patient_id", _as_text, "at most 250 characters", _TEXT),
    "accession_number": ("accession_number", _as_text, "at most 250 characters", _TEXT),
    "study_iuid": ("study_iuid", _as_text, "at most 250 characters", _TEXT),
    "modality": ("modality", _as_text, "one modality, such as CT", _TEXT),
    "center": ("center", _as_text, "at most 250 characters", _TEXT),
    "from": ("from_date", _as_date, "a date, YYYY-MM-DD", _DATE),
    "to": ("to_date", _as_date, "a date, YYYY-MM-DD", _DATE),
    "after": (
        "after",
        _as_place,
        "what an answer said as next",
        {"type": "string", "pattern": _PLACE},
    ),
    "limit": (
        "limit",
        _as_limit,
        f"a number from 1 to {_LARGEST_PAGE}",
        {"type": "integer", "minimum": 1, "maximum": _LARGEST_PAGE},
    ),
}
#: Not for who asks to say.
_OURS = {"patient_key", "only"}
assert {name for name, *_ in FILTERS.values()} | _OURS == {field.name for field in fields(Filters)}


def read_filters(wanted: Mapping[str, Any]) -> Filters:
    """Raises Rejected. A filter that isn't known is refused: who gave it would believe that it counts."""
    values: dict[str, Any] = {}
    for name, value in wanted.items():
        if name not in FILTERS:
            raise Rejected(f"A filter isn't known; those that are: {', '.join(FILTERS)}.")
        field, read, what, _ = FILTERS[name]
        if value in (None, ""):
            continue
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise Rejected(f"{name} must be {what}.")
        try:
            values[field] = read(str(value))
        except ValueError:
            raise Rejected(f"{name} must be {what}.") from None
    found = Filters(**values)
    if found.from_date is not None and found.to_date is not None and found.to_date < found.from_date:
        raise Rejected("to is before from.")
    return found

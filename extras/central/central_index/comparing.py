"""The question for digests, and its answer (pure)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from central_index.document import Rejected
from central_index.model import Range, RangeDigest

_MOST_RANGES = 1_000
_LARGEST_BIGINT = 2**63 - 1
End = Annotated[int, Field(ge=-_LARGEST_BIGINT, le=_LARGEST_BIGINT)] | None


class TooManyRanges(Exception):
    """One question may name so many, and no more."""


class Question(BaseModel):
    """after < study_pk <= until; null: without end."""

    model_config = ConfigDict(strict=True, extra="ignore")
    ranges: Annotated[
        list[Annotated[list[End], Field(min_length=2, max_length=2)]], Field(max_length=_MOST_RANGES)
    ]
    list_: Annotated[bool, Field(alias="list")] = False


def read_ranges(wanted: Any) -> tuple[list[Range], bool]:
    """The ranges, and whether their studies are to be listed. Raises Rejected, TooManyRanges."""
    if (
        isinstance(wanted, dict)
        and isinstance(wanted.get("ranges"), list)
        and len(wanted["ranges"]) > _MOST_RANGES
    ):
        raise TooManyRanges(f"More than {_MOST_RANGES} ranges at once.")
    try:
        question = Question.model_validate(wanted)
    except ValidationError:
        raise Rejected(
            'The question must look like {"ranges": [[0, 1000], [1000, null]], "list": false}.'
        ) from None
    return [Range(after, until) for after, until in question.ranges], question.list_


def shown(found: RangeDigest) -> dict[str, Any]:
    """One range's part of the answer."""
    answer: dict[str, Any] = {"count": found.size, "digest": found.digest}
    if found.studies is not None:
        answer["studies"] = [list(study) for study in found.studies]
    return answer

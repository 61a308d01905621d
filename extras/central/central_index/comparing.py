"""The question for digests, and its answer (pure)."""

from __future__ import annotations

from typing import Any

from central_index.document import Rejected
from central_index.model import Range, RangeDigest

_MOST_RANGES = 1_000
_LARGEST_BIGINT = 2**63 - 1


class TooManyRanges(Exception):
    """One question may name so many, and no more."""


def read_ranges(wanted: Any) -> tuple[list[Range], bool]:
    """The ranges, and whether their studies are to be listed. Raises Rejected, TooManyRanges."""
    if not isinstance(wanted, dict) or not isinstance(wanted.get("ranges"), list):
        raise Rejected('The question must look like {"ranges": [[0, 1000], [1000, null]]}.')
    listed = wanted.get("list", False)
    if not isinstance(listed, bool):
        raise Rejected("list must be true or false.")
    if len(wanted["ranges"]) > _MOST_RANGES:
        raise TooManyRanges(f"More than {_MOST_RANGES} ranges at once.")
    return [_range(one) for one in wanted["ranges"]], listed


def _range(pair: Any) -> Range:
    if not isinstance(pair, list) or len(pair) != 2 or not all(_is_end(end) for end in pair):
        raise Rejected("A range must be [after_pk, until_pk], each a whole number or null.")
    return Range(*pair)


def _is_end(end: Any) -> bool:
    return end is None or (isinstance(end, int) and not isinstance(end, bool) and abs(end) <= _LARGEST_BIGINT)


def shown(found: RangeDigest) -> dict[str, Any]:
    """One range's part of the answer."""
    answer: dict[str, Any] = {"count": found.size, "digest": found.digest}
    if found.studies is not None:
        answer["studies"] = [list(study) for study in found.studies]
    return answer

"""What the fault suite's invariant sees: an older version that comes after a newer one, of counts or of texts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.invariant import assert_nothing_lost


@pytest.mark.parametrize(
    ("first", "then", "in_order"),
    [
        ((2, "CT"), (3, "CT"), True),
        ((3, "CT"), (2, "CT"), False),
        ((2, "V1"), (2, "V12"), True),
        ((2, "V12"), (2, "V9"), False),
        ((2, "V12"), (3, "V9"), False),
        ((2, "V2"), (3, None), True),
    ],
)
def test_the_order_of_versions(first: tuple[int, str], then: tuple[int, str | None], in_order: bool) -> None:
    entries = [
        SimpleNamespace(
            idempotency_key=str(number),
            json={"study_iuid": "1.2", "study_instances": images, "study_description": text},
        )
        for number, (images, text) in enumerate((first, then))
    ]
    if in_order:
        assert assert_nothing_lost(entries, ["1.2"]).order_violations == 0
    else:
        with pytest.raises(AssertionError, match="older versions came after newer ones"):
            assert_nothing_lost(entries, ["1.2"])

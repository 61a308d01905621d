"""The Idempotency-Keys are version 5 UUIDs: another implementation of the contract makes the same ones."""

from __future__ import annotations

from uuid import UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from cdc_indexer.flow.keys import idempotency_key

NAMESPACE = UUID("5d0c3f5e-9d5b-5f0e-8f0c-2f6a3e7c1b54")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), st.integers(0, 2**64 - 1))
def test_a_key_is_the_uuid5_of_center_and_row(center: str, row_id: int) -> None:
    assert idempotency_key(center, row_id) == str(uuid5(NAMESPACE, f"{center}:{row_id}"))
    document = '{"patient_name": "PEÑA^JOSÉ"}'
    assert idempotency_key(center, row_id, document.encode()) == str(
        uuid5(NAMESPACE, f"{center}:{row_id}:{document}")
    )

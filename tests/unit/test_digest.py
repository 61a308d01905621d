"""The digest that goes into the ledger is the one that the index comes to: docs/index-api.md, same vectors on both sides."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cdc_indexer.model.study import KEYS, study_document
from central_index.digests import study_digest

VECTORS = json.loads((Path(__file__).resolve().parent.parent / "digest_vectors.json").read_text())["studies"]


def document_of(study: dict[str, Any]) -> Any:
    fields = {name: name for name in study if name not in KEYS}
    return study_document(study, study["center"], fields)


@pytest.mark.parametrize(
    # A column that is a fraction goes out as a text (its digits are the database's), so those numbers never come up.
    "vector",
    [v for v in VECTORS if not any(isinstance(value, float) for value in v["study"].values())],
    ids=lambda vector: vector["what"],
)
def test_a_document_comes_to_the_digest_of_the_vectors(vector: dict[str, Any]) -> None:
    document = document_of(vector["study"])
    assert document.digest.hex() == vector["digest"]
    assert json.loads(document.body) == vector["study"]


@pytest.mark.parametrize(
    "names",
    [("a", "a b", "a!"), ("ab", "a"), ("\U0001f600", "ﬀ"), ('a"', "a\\", "a"), ("Zone", "año", "zone")],
)
def test_further_fields_are_ordered_as_the_index_orders_them(names: tuple[str, ...]) -> None:
    study = {**VECTORS[0]["study"], **dict.fromkeys(names, "x")}
    document = document_of(study)
    assert document.digest == study_digest(json.loads(document.body))


def test_every_kind_of_column_comes_back_from_the_index_as_the_same() -> None:
    study = {
        **VECTORS[0]["study"],
        "n": Decimal("12.50"),
        "f": 0.1,
        "t": datetime(2026, 3, 1, 9, 30),
        "b": b"x",
        "i": 2**60,
    }
    document = document_of(study)
    assert document.digest == study_digest(json.loads(document.body))

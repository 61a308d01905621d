"""The digests of studies and ranges, against vectors that another implementation wrote (RFC 8785, BLAKE2b)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from central_index.digests import FIELDS, canonical, range_digest, study_digest
from tests.central.conftest import study

ROOT = Path(__file__).resolve().parent.parent.parent
VECTORS = json.loads((ROOT / "tests/digest_vectors.json").read_text())


@pytest.mark.parametrize("vector", VECTORS["studies"], ids=lambda vector: vector["what"])
def test_a_study_comes_to_its_digest(vector: dict[str, Any]) -> None:
    assert canonical(vector["study"]).decode() == vector["canonical"]
    assert study_digest(vector["study"]).hex() == vector["digest"]
    # In whatever order its members came.
    assert study_digest(dict(reversed(vector["study"].items()))).hex() == vector["digest"]


@pytest.mark.parametrize("vector", VECTORS["ranges"], ids=lambda vector: vector["what"])
def test_a_range_comes_to_its_digest(vector: dict[str, Any]) -> None:
    assert range_digest(map(bytes.fromhex, vector["digests"])) == vector["digest"]


@pytest.mark.parametrize("field", FIELDS)
def test_every_value_counts(field: str) -> None:
    changed = {**study(), field: 5 if isinstance(study()[field], int) else "5"}
    assert study_digest(changed) != study_digest(study())
    assert study_digest({**study(), field: None}) != study_digest(changed)


def test_a_text_is_no_number_and_a_further_null_is_no_absence() -> None:
    digests = {
        study_digest(study(**more)) for more in ({}, {"x": None}, {"x": 1}, {"x": "1"}, {"x": True}, {"y": 1})
    }
    assert len(digests) == 6


def test_the_document_says_the_vectors() -> None:
    table = re.findall(
        r"^\| .* \| `([0-9a-f]{32})` \|$", (ROOT / "docs/index-api.md").read_text(), re.MULTILINE
    )
    assert table == [vector["digest"] for vector in (*VECTORS["studies"], *VECTORS["ranges"])]

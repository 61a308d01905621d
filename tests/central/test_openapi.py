"""/openapi.json says what the index does: fuzzed by schemathesis, which knows nothing else of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.central.conftest import READER, WRITER, Index

OPERATIONS = [
    "POST /api/v1/register",
    "GET /api/v1/register",
    "DELETE /api/v1/register/{study_iuid}",
    "POST /api/v1/register/digests",
    "POST /api/v1/register/report",
    "GET /api/v1/studies",
    "POST /api/v1/search",
    "POST /api/v1/search.csv",
    "GET /api/v1/centers",
    "GET /api/v1/choices",
    "GET /healthz",
    "GET /metrics",
    "POST /login",
    "POST /logout",
]
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def engine() -> str:
    """The other store answers with the same code."""
    return "sqlite"


@pytest.fixture(scope="module")
def described(shared_index: Index) -> Any:
    return schemathesis.openapi.from_url(f"{shared_index.url}/openapi.json")


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_it_answers_as_it_says(
    described: Any, shared_index: Index, operation: str, mode: GenerationMode
) -> None:
    """To what it describes, and to what it doesn't."""
    method, path = operation.split()
    key = WRITER if "/register" in path else READER
    cases = described[path][method].as_strategy(generation_mode=mode)

    @settings(
        max_examples=20, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=cases)
    def ask(case: Any) -> None:
        case.call_and_validate(headers={"X-Api-Key": key}, checks=CHECKS)

    try:
        ask()
    except Unsatisfiable:
        pytest.skip("nothing can be wrong with it")
    assert "Traceback" not in shared_index.log


def test_every_address_is_described(shared_index: Index) -> None:
    document = shared_index.ask("GET", "/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    found = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert found == set(OPERATIONS)
    study = document["components"]["schemas"]["Study"]
    assert len(study["required"]) == 11
    assert json.dumps(document).count("#/components/schemas/Question")

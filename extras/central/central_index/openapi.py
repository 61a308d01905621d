"""The document that says, for machines, what may be asked: OpenAPI 3.1, made from what checks the requests (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.routing import BaseRoute, Route

from central_index.comparing import Question
from central_index.document import Study
from central_index.filters import FILTERS
from central_index.model import LARGEST_VERSION
from central_index.reports import Report
from central_index.web import FEATURES

_REGISTER = "/api/v1/register"
_REF = "#/components/schemas/{model}"
_VERSION = {"type": "integer", "minimum": 1, "maximum": LARGEST_VERSION}
_STATUS = {"type": "object", "required": ["status"], "properties": {"status": {"const": "Ok"}}}
_ERROR = {
    "type": "object",
    "required": ["status", "reason"],
    "properties": {
        "status": {"const": "Error"},
        "reason": {"type": "string"},
        # Where a status has several; docs/index-api.md, "Searches".
        "code": {"type": "string"},
    },
}
_STALE = {
    "type": "object",
    "required": ["status", "version"],
    "properties": {"status": {"const": "Stale"}, "version": _VERSION},
}
_RESULT = {
    "type": "object",
    "required": ["status"],
    "properties": {"status": {"type": "integer"}, "reason": {"type": "string"}, "version": _VERSION},
}
_FOUND = {
    "type": "object",
    "required": ["studies", "next", "hits", "more_hits", "total"],
    "properties": {
        "studies": {
            "type": "array",
            "items": {"type": "object", "properties": {"valid_id": {"type": "boolean"}}},
        },
        "next": {"type": ["string", "null"]},
        "hits": {"type": ["integer", "null"]},
        "more_hits": {"type": "boolean"},
        "total": {"type": ["integer", "null"]},
        "one_person": {"type": "boolean"},
        "names_differ": {"type": "boolean"},
        "patient_is_id": {"const": True},
    },
}
#: What any request may be answered with.
_ANYWHERE = {
    "400": "The body isn't JSON in UTF-8, or a header isn't what it should be.",
    "401": "The key isn't known.",
    "403": "The key is for something else.",
    "408": "The body took too long.",
    "413": "More than this index takes at once.",
    "422": "This can't be kept; the reason says why.",
    "503": "The index can't reach its studies at present.",
}


class _Element(Study):
    """One study of an array, with what isn't the study's."""

    idempotency_key: str | None = None
    version: int | None = None


def document(routes: Iterable[BaseRoute]) -> dict[str, Any]:
    """Raises AssertionError for a route that isn't described."""
    models: list[type[BaseModel]] = [Study, _Element, Question, Report]
    _, schemas = models_json_schema([(model, "validation") for model in models], ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if not isinstance(route, Route) or route.path in _NOT_DESCRIBED:
            continue
        for method in sorted((route.methods or set()) - {"HEAD"}):
            path = re.sub(r":\w+}", "}", route.path)
            paths.setdefault(path, {})[method.lower()] = _operation(f"{method} {path}")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Central index",
            "version": _version(),
            "description": f"docs/index-api.md says it in words. Index-Features: {FEATURES}",
        },
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"}},
        },
    }


_NOT_DESCRIBED = {"/", "/events", "/openapi.json"}
_PUBLIC = {"GET /healthz", "GET /metrics", "POST /login", "POST /logout"}


def _operation(name: str) -> dict[str, Any]:
    summary, answers = _ANSWERS[name]
    operation: dict[str, Any] = {
        "summary": summary,
        "operationId": re.sub(r"\W+", "_", name.lower()).strip("_"),
        "parameters": _PARAMETERS.get(name, []),
        "responses": {
            **{status: _answer(text, _ERROR) for status, text in _ANYWHERE.items()},
            **answers,
        },
        "security": [] if name in _PUBLIC else [{"key": []}],
    }
    if name in _BODIES:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _BODIES[name]}},
        }
    return operation


def _answer(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}


def _header(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": schema}


_WRITE_HEADERS = [_header("Study-Version", _VERSION), _header("Idempotency-Key", {"type": "string"})]
_FILTER_SCHEMAS = {name: schema for name, (_, _, _, schema) in FILTERS.items()}
_STALE_ANSWER = {"409": _answer("The index has a newer version, or another request with this one.", _STALE)}
_ANSWERS: dict[str, tuple[str, dict[str, Any]]] = {
    f"POST {_REGISTER}": (
        "Keeps a study, or an array of them",
        {
            "201": _answer("It is durable.", _STATUS),
            "207": _answer(
                "A result for each, in their order.",
                {
                    "type": "object",
                    "required": ["status", "results"],
                    "properties": {"status": {"const": "Ok"}, "results": {"type": "array", "items": _RESULT}},
                },
            ),
            **_STALE_ANSWER,
        },
    ),
    f"GET {_REGISTER}": (
        "Tries a key, changing nothing; the header Index-Center says whose it is",
        {"200": _answer("It counts.", {"type": "array", "maxItems": 0})},
    ),
    f"DELETE {_REGISTER}/{{study_iuid}}": (
        "Deletes a study",
        {
            "200": _answer("It is gone, durably.", _STATUS),
            "404": _answer("There is no such study; its version is kept.", _ERROR),
            **_STALE_ANSWER,
        },
    ),
    f"POST {_REGISTER}/digests": (
        "What ranges of study_pk come to",
        {
            "200": _answer(
                "One for each range, in their order.",
                {"type": "object", "required": ["ranges"], "properties": {"ranges": {"type": "array"}}},
            )
        },
    ),
    f"POST {_REGISTER}/report": (
        "How a centre says that it is",
        {
            "200": _answer(
                "What the index knew before.",
                {
                    "type": "object",
                    "required": ["status", "previous", "highest"],
                    "properties": {
                        "status": {"const": "Ok"},
                        "previous": {"type": ["integer", "null"]},
                        "highest": {"type": ["integer", "null"]},
                    },
                },
            )
        },
    ),
    "GET /api/v1/studies": ("Looks for studies, newest first", {"200": _answer("One page.", _FOUND)}),
    "POST /api/v1/search": (
        "The same, so that no proxy logs what was looked for",
        {"200": _answer("One page.", _FOUND), "415": _answer("No JSON.", _ERROR)},
    ),
    "POST /api/v1/search.csv": (
        "The same as CSV, for who may; of more than 1,000,000 studies the last line says that it was cut",
        {
            "200": {"description": "UTF-8 with a mark.", "content": {"text/csv": {}}},
            "415": _answer("No JSON.", _ERROR),
        },
    ),
    "GET /api/v1/centers": (
        "How each centre stands",
        {"200": _answer("Who needs somebody comes first.", {"type": "object", "required": ["centers"]})},
    ),
    "GET /api/v1/choices": (
        "What can be chosen: centres that the reader sees, and modalities",
        {"200": _answer("In order.", {"type": "object", "required": ["centers", "modalities"]})},
    ),
    "GET /healthz": ("Whether it can write", {"200": _answer("It can.", _STATUS)}),
    "GET /metrics": ("For Prometheus", {"200": {"description": "Text.", "content": {"text/plain": {}}}}),
    "POST /login": (
        "Opens the page",
        {"200": _answer("A cookie.", _STATUS), "429": _answer("Too many tries.", _ERROR)},
    ),
    "POST /logout": ("Closes it", {"200": _answer("Closed.", _STATUS)}),
}
_PARAMETERS: dict[str, list[dict[str, Any]]] = {
    f"POST {_REGISTER}": _WRITE_HEADERS,
    f"DELETE {_REGISTER}/{{study_iuid}}": [
        {"name": "study_iuid", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}},
        {"name": "center", "in": "query", "required": False, "schema": {"type": "string"}},
        *_WRITE_HEADERS,
    ],
    "GET /api/v1/studies": [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in _FILTER_SCHEMAS.items()
    ],
}
_FILTER_BODY = {
    "type": "object",
    "properties": {name: {"anyOf": [schema, {"type": "null"}]} for name, schema in _FILTER_SCHEMAS.items()},
    "additionalProperties": False,
}
_BODIES: dict[str, dict[str, Any]] = {
    f"POST {_REGISTER}": {
        "anyOf": [_ref(Study), {"type": "array", "items": _ref(_Element), "maxItems": 1_000}]
    },
    f"POST {_REGISTER}/digests": _ref(Question),
    f"POST {_REGISTER}/report": _ref(Report),
    "POST /api/v1/search": _FILTER_BODY,
    "POST /api/v1/search.csv": _FILTER_BODY,
    "POST /login": {
        "anyOf": [
            {"type": "object", "required": ["key"], "properties": {"key": {"type": "string"}}},
            {
                "type": "object",
                "required": ["name", "password"],
                "properties": {"name": {"type": "string"}, "password": {"type": "string"}},
            },
        ]
    },
}


def _version() -> str:
    try:
        return version("cdc-indexer")
    except PackageNotFoundError:
        return "0"

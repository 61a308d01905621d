"""Whether the central index holds what the archive holds: every study, field by field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import requests

from extras.demo.server import Connection

_FIELDS = (
    "patient_pk",
    "patient_id",
    "patient_name",
    "study_pk",
    "study_iuid",
    "study_datetime",
    "study_description",
    "study_modality",
    "study_series",
    "study_instances",
)
_PAGE = 500
_TIMEOUT_SECONDS = 10.0


class Difference(NamedTuple):
    """What is wrong with one study. Values aren't repeated: they are patient data."""

    study_iuid: str
    what: str


def held_by_pacs(connection: Connection, center: str) -> list[dict[str, Any]]:
    """Every study of the archive as the index should hold it."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {', '.join(_FIELDS)} FROM indexer_study")
        studies = [dict(zip(_FIELDS, row, strict=True)) for row in cursor.fetchall()]
    for study in studies:
        moment = study["study_datetime"]
        study["study_datetime"] = f"{moment:%Y-%m-%d %H:%M:%S}" if moment else None
        study["center"] = center
    return studies


def held_by_index(session: requests.Session, url: str, key: str) -> list[dict[str, Any]]:
    """Every study of the index, read page by page."""
    studies: list[dict[str, Any]] = []
    after: object = None
    while True:
        parameters: dict[str, Any] = {"limit": _PAGE, **({"after": after} if after is not None else {})}
        answer = session.get(url, params=parameters, headers={"X-Api-Key": key}, timeout=_TIMEOUT_SECONDS)
        answer.raise_for_status()
        page = answer.json()
        studies += page["studies"]
        after = page["next"]
        if after is None:
            return studies


def compare(pacs: Iterable[Mapping[str, Any]], index: Iterable[Mapping[str, Any]]) -> list[Difference]:
    """What differs; nothing, if both hold the same. Fields that only the index has are its own."""
    differences = []
    indexed: dict[str, Mapping[str, Any]] = {}
    for study in index:
        study_iuid = study["study_iuid"]
        if study_iuid in indexed:
            differences.append(Difference(study_iuid, "the index holds it twice"))
        indexed[study_iuid] = study
    for study in pacs:
        study_iuid = study["study_iuid"]
        found = indexed.pop(study_iuid, None)
        if found is None:
            differences.append(Difference(study_iuid, "the index doesn't hold it"))
            continue
        # 1 == 1.0 == True in Python, not in JSON.
        wrong = [
            field
            for field, value in study.items()
            if field not in found or type(found[field]) is not type(value) or found[field] != value
        ]
        if wrong:
            differences.append(
                Difference(study_iuid, f"{', '.join(wrong)} differ{'s' if len(wrong) == 1 else ''}")
            )
    differences += [Difference(study_iuid, "the archive doesn't hold it") for study_iuid in indexed]
    return differences

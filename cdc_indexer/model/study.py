"""A study as the central index wants it: a row of the outbox or the view -> JSON (pure)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, datetime
from enum import Enum
from hashlib import blake2b
from json.encoder import encode_basestring
from typing import NamedTuple

from cdc_indexer.model.errors import InvalidStudy

#: The columns of the view ``indexer_study`` that every study has, in the order of the JSON.
COLUMNS = (
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

#: How long a digest is.
DIGEST_BYTES = 16

#: The keys of the JSON without ``fields``: the contract with the central index.
KEYS = (*COLUMNS, "center")


class Operation(str, Enum):
    """What the PACS did; the values of ``study_service.operation``."""

    STORED = "stored"
    CHANGED = "changed"
    DELETED = "deleted"
    PATIENT = "patient"


class OutboxRow(NamedTuple):
    """One row of ``study_service``.

    ``recorded_at`` is naive UTC with microseconds. ``values`` holds the columns of the view by name, as the
    driver gives them (int, str, datetime, None).
    """

    id: int
    operation: str
    recorded_at: datetime
    values: Mapping[str, object]

    @property
    def study_pk(self) -> int:
        """The study's primary key in the PACS; 0 in a row that stands for a whole patient."""
        return _as_int(self.values.get("study_pk"))

    @property
    def patient_pk(self) -> int:
        """The patient's primary key in the PACS; 0 where the row has none."""
        return _as_int(self.values.get("patient_pk"))

    @property
    def study_iuid(self) -> str:
        """The Study Instance UID; empty where the row has none."""
        return _as_text(self.values.get("study_iuid"))


def _as_int(value: object) -> int:
    return value if isinstance(value, int) else 0


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else ""


def study_key(study_iuid: str, study_pk: int) -> str:
    """What orders versions: the UID, since a study stored again gets another primary key."""
    return study_iuid or f"#{study_pk}"


def names(values: Mapping[str, object]) -> tuple[str, int]:
    """study_iuid and study_pk of a row of the view; empty and 0 where they are none."""
    return _as_text(values.get("study_iuid")), _as_int(values.get("study_pk"))


#: Another one whenever ``study_document`` makes another document of the same study and fields.
DOCUMENT_FORMAT = 1


class Document(NamedTuple):
    """A study as the central index gets it, and what that comes to.

    ``body`` is the JSON, UTF-8; ``digest`` the 16 bytes of docs/index-api.md, by which two documents are told apart.
    """

    body: bytes
    digest: bytes


def study_document(
    values: Mapping[str, object], center: str, fields: Mapping[str, str] | None = None
) -> Document:
    """The document of one study, keys in the order of the contract.

    ``fields`` adds columns of the view after the eleven: name in the JSON -> column.

    Raises InvalidStudy when a column can't be what the contract says; the message names the column, never its value.
    """
    get = values.get
    study_pk, study_iuid = _number("study_pk", get("study_pk")), _text("study_iuid", get("study_iuid"))
    if study_pk in {"null", "0"}:
        raise InvalidStudy("study_pk is missing")
    if study_iuid in ("null", '""'):
        raise InvalidStudy("study_iuid is missing")
    # The text that json.dumps(..., ensure_ascii=False) would write, in a third of its time: this is done for each study.
    patient_pk = _number("patient_pk", get("patient_pk"))
    patient_id = _text("patient_id", get("patient_id"))
    patient_name = _text("patient_name", get("patient_name"))
    moment = _json_moment(get("study_datetime"))
    description = _text("study_description", get("study_description"))
    modality = _text("study_modality", get("study_modality"))
    series = _number("study_series", get("study_series"))
    instances = _number("study_instances", get("study_instances"))
    center = encode_basestring(center)
    body = (
        f'{{"patient_pk": {patient_pk}, "patient_id": {patient_id}, "patient_name": {patient_name}, '
        f'"study_pk": {study_pk}, "study_iuid": {study_iuid}, "study_datetime": {moment}, '
        f'"study_description": {description}, "study_modality": {modality}, "study_series": {series}, '
        f'"study_instances": {instances}, "center": {center}'
    )
    # The array of docs/index-api.md: its numbers, texts and escapes are those of the document.
    canonical = (
        f"[{patient_pk},{patient_id},{patient_name},{study_pk},{study_iuid},{moment},{description},{modality},"
        f"{series},{instances},{center}"
    )
    if fields:
        more = {
            name: (encode_basestring(name), json.dumps(_extra(column, get(column)), ensure_ascii=False))
            for name, column in fields.items()
        }
        body += "".join(f", {name}: {value}" for name, value in more.values())
        # The order of RFC 8785: by UTF-16 units, of the name as it is.
        ordered = sorted(more, key=lambda name: name.encode("utf-16-be"))
        canonical += ",{" + ",".join("{}:{}".format(*more[name]) for name in ordered) + "}"
    try:
        return Document(
            f"{body}}}".encode(), blake2b(f"{canonical}]".encode(), digest_size=DIGEST_BYTES).digest()
        )
    except UnicodeEncodeError:
        raise InvalidStudy("a text column holds characters that UTF-8 can't carry") from None


def study_json(values: Mapping[str, object], center: str, fields: Mapping[str, str] | None = None) -> bytes:
    """The body of ``study_document``."""
    return study_document(values, center, fields).body


def _number(column: str, value: object) -> str:
    """As JSON."""
    if type(value) is int:
        return str(value)
    if value is None:
        return "null"
    # bool is an int in Python; Decimal comes from SUM() and COUNT() in a view of somebody's own.
    if isinstance(value, bool) or not hasattr(value, "__int__") or isinstance(value, str):
        raise InvalidStudy(f"{column} is not a number")
    number = int(value)
    if number != value:
        raise InvalidStudy(f"{column} is not a whole number")
    return str(number)


def _text(column: str, value: object) -> str:
    """As JSON."""
    if type(value) is str:
        return encode_basestring(value)
    if value is None:
        return "null"
    if isinstance(value, bytes):  # a VARBINARY column in somebody's own view
        try:
            return encode_basestring(value.decode())
        except UnicodeDecodeError:
            raise InvalidStudy(f"{column} is not UTF-8") from None
    if isinstance(value, (str, int, float)):
        return encode_basestring(str(value))
    raise InvalidStudy(f"{column} is not a text")


def _json_moment(value: object) -> str:
    if type(value) is datetime and not value.microsecond and value.tzinfo is None:
        return f'"{value}"'
    moment = _moment(value)
    return "null" if moment is None else f'"{moment}"'


def _moment(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, datetime):
        # Not strftime: it doesn't pad years before 1000.
        return value.replace(microsecond=0, tzinfo=None).isoformat(sep=" ")
    if isinstance(value, date):
        return f"{value.isoformat()} 00:00:00"
    # PyMySQL hands a date that Python can't hold ('0000-00-00 00:00:00', day 0) through as its text.
    if isinstance(value, str):
        try:
            return datetime.fromisoformat(value).replace(microsecond=0).isoformat(sep=" ")
        except ValueError:
            return None
    raise InvalidStudy("study_datetime is not a date and time")


def _extra(column: str, value: object) -> str | int | None:
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, (datetime, date)):
        return _moment(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise InvalidStudy(f"{column} is not UTF-8") from None
    return str(value)

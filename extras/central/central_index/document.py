"""What a centre may send: one study, checked before it is kept. The reasons never repeat a value: it may be a patient's."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from central_index.digests import FIELDS

_LARGEST_BIGINT = 2**63 - 1
_MOST_MORE_FIELDS = 32
_LONGEST_MORE_TEXT = 1_000
_DATETIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", re.ASCII)


def _without_nul(value: str) -> str:
    # PostgreSQL can't keep it, and what one store takes must be good for the other.
    if "\0" in value:
        raise ValueError("must not hold U+0000")
    return value


Text = Annotated[str, Field(max_length=250), AfterValidator(_without_nul)]
PrimaryKey = Annotated[int, Field(ge=0, le=_LARGEST_BIGINT)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Scalar = str | int | float | bool | None


class Rejected(ValueError):
    """This can't be kept; the text is for the centre's administrator."""


class Study(BaseModel):
    """The eleven fields of the README's "JSON", and whatever a centre adds with ``fields``.

    All eleven must be there; a value that the archive doesn't have is null.
    """

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, allow_inf_nan=False)
    # Not Scalar: where another module inherits, older versions of pydantic look for the name there.
    __pydantic_extra__: dict[str, str | int | float | bool | None]

    patient_pk: PrimaryKey | None
    patient_id: Text | None
    patient_name: Text | None
    study_pk: PrimaryKey
    study_iuid: Annotated[str, Field(min_length=1, max_length=250), AfterValidator(_without_nul)]
    study_datetime: str | None
    study_description: Text | None
    study_modality: Text | None
    study_series: Count | None
    study_instances: Count | None
    center: Annotated[str, Field(min_length=1, max_length=64)]

    @field_validator("study_datetime")
    @classmethod
    def _is_a_moment(cls, value: str | None) -> str | None:
        if value is not None:
            if not _DATETIME.fullmatch(value):
                raise ValueError("must be YYYY-MM-DD HH:MM:SS, or null")
            try:
                datetime.fromisoformat(value)
            except ValueError:
                raise ValueError("is no moment of the calendar") from None
        return value

    @model_validator(mode="after")
    def _has_few_more(self) -> Study:
        more = self.__pydantic_extra__
        if len(more) > _MOST_MORE_FIELDS:
            raise ValueError(f"more than {_MOST_MORE_FIELDS} fields beyond the eleven")
        for name, value in more.items():
            if isinstance(value, str) and len(value) > _LONGEST_MORE_TEXT:
                raise ValueError(f"a field beyond the eleven is longer than {_LONGEST_MORE_TEXT} characters")
            if isinstance(value, int) and abs(value) > _LARGEST_BIGINT:
                raise ValueError("a number beyond the eleven fields is too large")
            if not (_is_text(name) and (not isinstance(value, str) or _is_text(value))):
                raise ValueError("a field beyond the eleven holds half a character")
            if "\0" in name or (isinstance(value, str) and "\0" in value):
                raise ValueError("a field beyond the eleven holds U+0000")
            if len(name) > 64:
                raise ValueError("the name of a field beyond the eleven is longer than 64 characters")
        return self

    @property
    def more(self) -> dict[str, Scalar]:
        """The fields beyond the eleven."""
        return self.__pydantic_extra__

    @property
    def document(self) -> dict[str, Scalar]:
        """All fields, the eleven first."""
        return {**self.__dict__, **self.more}


def _is_text(value: str) -> bool:
    """False for one with a lone surrogate, which JSON can name and no encoding can hold."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


assert tuple(Study.model_fields) == FIELDS


def parse(document: Any) -> Study:
    """A study from decoded JSON; raises Rejected with the field's name and what is wrong with it."""
    if not isinstance(document, dict):
        raise Rejected("A study must be a JSON object.")
    try:
        return Study.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        # The name of an unknown field is the sender's text, too, and is left out.
        name = next((str(part) for part in first["loc"] if part in FIELDS), "")
        what = first["msg"].removeprefix("Value error, ")
        raise Rejected(f"{name}: {what}." if name else f"{what}.") from None

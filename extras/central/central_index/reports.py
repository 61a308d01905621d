"""How a centre says that it is: one report (pure)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from central_index.document import Rejected
from central_index.model import LARGEST_VERSION

Number = Annotated[int, Field(ge=0, le=2**63 - 1)]
Moment = Annotated[str, Field(max_length=40)]
_Model = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class Pass(BaseModel):
    """The last comparison of archive and index."""

    model_config = _Model
    at: Moment | None = None
    compared: Number = 0
    missing: Number = 0
    stale: Number = 0
    extra: Number = 0
    kept: Number = 0


class Report(BaseModel):
    """No patient, no name of a host. Members that aren't known are left out, so that a later program may send more."""

    model_config = _Model
    at: Annotated[int, Field(ge=1, le=LARGEST_VERSION)]
    center: Annotated[str, Field(min_length=1, max_length=64)]
    program: Annotated[str, Field(max_length=64)] | None = None
    state: Literal["ok", "warning", "failed"]
    problems: Annotated[list[Annotated[str, Field(max_length=1_000)]], Field(max_length=100)] = []
    behind_seconds: Annotated[float, Field(ge=0)] | None = None
    waiting: Number | None = None
    parked: Number | None = None
    last_delivery: Moment | None = None
    last_pass: Pass | None = None


def read_report(content: Any) -> dict[str, Any]:
    """Raises Rejected, without repeating a value."""
    if not isinstance(content, dict):
        raise Rejected("A report must be a JSON object.")
    try:
        return Report.model_validate(content).model_dump()
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise Rejected(f"{name}: {first['msg']}.") from None

"""A stored row as people see it (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from central_index.digests import FIELDS, further

#: What `as_json` takes, in this order.
COLUMNS = ("id", "sorted_at", *FIELDS, "more", "first_received_at", "received_at", "versions")


def as_json(row: Sequence[Any]) -> dict[str, Any]:
    number, _, *values, more, first_received_at, received_at, versions = row
    first = moment(first_received_at)
    return {
        **further(more),
        "id": number,
        **dict(zip(FIELDS, values, strict=True)),
        "first_received_at": first,
        "received_at": first if received_at == first_received_at else moment(received_at),
        "versions": versions,
    }


def moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="microseconds")

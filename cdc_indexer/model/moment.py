"""Times as values: nothing here asks a clock (pure)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

__all__ = ["EPOCH", "Now", "microseconds", "moment"]

EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)


class Now(NamedTuple):
    """The present.

    ``seconds`` is of a clock that never goes back; ``clock`` is that of the archive's database, in microseconds since 1970.
    """

    seconds: float
    clock: int


def microseconds(moment: datetime) -> int:
    """Naive UTC as microseconds since 1970, exactly."""
    return (moment - EPOCH) // _MICROSECOND


def moment(clock: int) -> datetime:
    """Microseconds since 1970 as naive UTC."""
    return EPOCH + timedelta(microseconds=clock)

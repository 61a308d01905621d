"""Times as values: nothing here asks a clock."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import NamedTuple

__all__ = ["EPOCH", "Now", "for_people", "microseconds", "moment"]

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


def for_people(moment: datetime, *, seconds: bool = True) -> str:
    """The time of this machine's zone, as the clock on the wall shows it, and how far that is from UTC.

    So are all times that people read; JSON has UTC. ``moment``: aware, or naive UTC.
    """
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)
    text = aware.astimezone().isoformat(" ", "seconds" if seconds else "minutes")
    return f"{text[:-6]} {text[-6:]}"

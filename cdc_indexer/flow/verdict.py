"""What is to be done with a study after a request, and whether the way to the central index is open (pure)."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from cdc_indexer.model.outcome import Refusal

__all__ = ["Change", "Do", "Gate", "Verdict"]


class Gate(str, Enum):
    """Whether the central index takes what we send."""

    OPEN = "open"
    AWAY = "away"
    HELD = "held"


class Change(NamedTuple):
    """The gate has changed, and why in one sentence.

    ``unpark_seconds``: what was rejected and parked in the last so many seconds is to be sent again, once the parks that
    were decided before this are stored; it may then wait here with the others.
    """

    gate: Gate
    reason: str = ""
    refusal: Refusal | None = None
    unpark_seconds: float = 0.0


class Do(Enum):
    """What is to be done with a study."""

    #: It is done with.
    SETTLE = "settle"
    #: The index has a newer version: the study is read again, and sent with a higher one.
    READ_AGAIN = "read again"
    #: It is rejected, or the index has failed on it for too long: kept for a person.
    PARK = "park"
    #: It waits until ``Verdict.at``; the others go on.
    RETRY = "retry"
    #: It goes again as soon as the gate lets it: at once when that is open, else when ``choose`` names it.
    WAIT = "wait"
    #: Nobody knows yet: ask the index by GET, and judge the same outcome again with what that gave.
    ASK = "ask"


class Verdict(NamedTuple):
    """What is to be done with one study, and whether the gate has changed with it."""

    do: Do
    at: float = 0.0
    change: Change | None = None

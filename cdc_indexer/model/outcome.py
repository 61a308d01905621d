"""What came of a request to the central index, as one of six kinds (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(str, Enum):
    """What is to be done after a request."""

    ACCEPTED = "accepted"
    ALREADY_THERE = "already there"
    #: This study is wrong: it is parked.
    REJECTED = "rejected"
    #: The address or the key is wrong: nothing is sent until a person mends it.
    HELD = "held"
    #: The index is away or busy: nothing is sent for a while.
    RETRY_INDEX = "index away"
    #: The index failed on this request: it is tried again, the others go on.
    RETRY_STUDY = "study failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one request.

    ``status`` is None when no whole answer came. ``answer`` is at most MAX_ANSWER_BYTES of what the index said; it may
    repeat patient data, so it is for the parked store only. ``reason`` is one sentence for the administrator, free of that.
    """

    kind: Kind
    status: int | None = None
    answer: str = ""
    retry_after_seconds: float | None = None
    reason: str = ""

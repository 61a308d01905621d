"""What came of a request to the central index, as one of a few kinds (pure)."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Kind(str, Enum):
    """What is to be done after a request."""

    ACCEPTED = "accepted"
    ALREADY_THERE = "already there"
    #: The index doesn't know the study that it is to delete, if it is the index that says so.
    ABSENT = "absent"
    #: The index has a newer version of this study: it is read and sent again.
    STALE = "stale"
    #: This study is wrong: it is parked.
    REJECTED = "rejected"
    #: The address or the key is wrong: nothing is sent until a person mends it.
    HELD = "held"
    #: The index is away or busy: nothing is sent for a while.
    RETRY_INDEX = "index away"
    #: The index failed on this request: it is tried again, the others go on.
    RETRY_STUDY = "study failed"


class Refusal(str, Enum):
    """Why everything is held."""

    KEY = "key"
    ADDRESS = "address"
    REDIRECT = "redirect"
    CERTIFICATE = "certificate"
    #: Somebody else answers in the place of the index: a portal, a firewall, a proxy.
    STRANGER = "stranger"
    #: Every study is rejected.
    REJECTS_ALL = "rejects all"
    OTHER = "other"


class Outcome(NamedTuple):
    """What came of one request.

    ``status`` is None when no whole answer came. ``answer`` is at most MAX_ANSWER_BYTES of what the index said; it may
    repeat patient data, so it is for the parked store only. ``reason`` is one sentence for the administrator, free of that.
    ``refusal`` is why, for HELD. ``version``: the one that the index has, for STALE; None if it can't be read.
    """

    kind: Kind
    status: int | None = None
    answer: str = ""
    retry_after_seconds: float | None = None
    reason: str = ""
    refusal: Refusal | None = None
    version: int | None = None

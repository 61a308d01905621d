"""What is asked of a store, and what it says (pure)."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from central_index.digests import study_digest
from central_index.document import Study

#: A version has 63 bits.
LARGEST_VERSION = 2**63 - 1
#: Repeated requests come within days, at the latest when a centre's parked studies are sent again; so do late deletions.
REMEMBERED_SECONDS = 90 * 86_400
#: Hits are counted so far.
MOST_COUNTED = 1_000


#: Called after each change, in any thread.
OnChange: TypeAlias = Callable[[], None]


class StoreUnavailable(Exception):
    """The studies can't be read or written at present; who asked comes again."""


class UnusableStore(Exception):
    """There is no going on with this database; the text is one sentence."""


class TooManyStudies(Exception):
    """More are asked for than one answer may list."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A version of a study, as its centre sent it. ``received_at`` in seconds since 1970; ``version`` as the centre says."""

    idempotency_key: str | None
    received_at: float
    study: Study
    version: int | None = None

    @property
    def center(self) -> str:
        return self.study.center

    @property
    def study_iuid(self) -> str:
        return self.study.study_iuid

    @property
    def digest(self) -> bytes | None:
        return study_digest(self.study.document)


@dataclass(frozen=True, slots=True)
class Deleted:
    """A study that its centre doesn't hold any more."""

    idempotency_key: str | None
    received_at: float
    center: str
    study_iuid: str
    version: int | None = None

    @property
    def digest(self) -> bytes | None:
        return None


Change: TypeAlias = "Stored | Deleted"


def key_digest(change: Change) -> bytes | None:
    """What is kept of an Idempotency-Key: two centres may use the same."""
    if change.idempotency_key is None:
        return None
    key = f"{change.center}\0{change.idempotency_key}".encode(errors="replace")
    return hashlib.blake2b(key, digest_size=16).digest()


class Verdict(enum.Enum):
    """What became of a change."""

    APPLIED = "applied"
    #: Carried out before: answered as then.
    KNOWN = "known"
    #: A deletion of what isn't there. A tombstone is written all the same.
    ABSENT = "absent"
    #: The index has a newer version.
    STALE = "stale"


class Outcome(NamedTuple):
    """``version``: the study's highest, now."""

    verdict: Verdict
    version: int


@dataclass(frozen=True, slots=True)
class Filters:
    """What a reader looks for; None is anything.

    ``patient``: words that the name or the id has, or their beginnings, whatever case and accents. ``from_date`` and
    ``to_date``: YYYY-MM-DD, both included. ``after``: the `Place` of the last study of the page before.
    """

    patient: str | None = None
    patient_id: str | None = None
    #: As `id_key` writes an id.
    patient_key: str | None = None
    accession_number: str | None = None
    study_iuid: str | None = None
    modality: str | None = None
    center: str | None = None
    from_date: str | None = None
    to_date: str | None = None
    after: Place | None = None
    limit: int = 50
    #: What the reader may see; None is all.
    only: tuple[str, ...] | None = None


class Place(NamedTuple):
    """Where a study stands in the order in which they are shown: newest first."""

    #: YYYY-MM-DD HH:MM:SS, of the study, or of its first arrival where it has none.
    sorted_at: str
    id: int


class Found(NamedTuple):
    """One page. ``hits`` counts to MOST_COUNTED, ``more_hits`` says that there are more; None: not counted."""

    studies: list[dict[str, Any]]
    following: Place | None
    hits: int | None
    more_hits: bool


class Range(NamedTuple):
    """after < study_pk <= until; None: without end."""

    after: int | None
    until: int | None


class RangeDigest(NamedTuple):
    """``studies``: (study_pk, study_iuid, digest) of each, where they were asked for."""

    size: int
    digest: str
    studies: list[tuple[int, str, str]] | None


class Reported(NamedTuple):
    """``previous``: the `at` of the report before; ``highest``: the highest version of this centre's studies."""

    previous: int | None
    highest: int | None


class CenterReport(NamedTuple):
    """The last report of a centre. ``received_at`` in seconds since 1970."""

    center: str
    received_at: float
    content: dict[str, Any]


class Arrivals(NamedTuple):
    """Studies that came first in each of two times of equal length: today so far, and the same a week before."""

    today: int
    before: int

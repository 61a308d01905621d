"""What the central index was last told of a study: the entry of the ledger (pure)."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Entry"]


class Entry(NamedTuple):
    """The last that is known of one study; never changed, each result makes a new one.

    Attributes:
        study_iuid: the key: the UID, or what ``study_key`` makes for a study without one.
        study_pk: the primary key under which the archive had it then. The archive may give it to another study later.
        version: of what was last accepted, a document or a deletion, in microseconds since 1970; 0: nothing was.
        digest: 16 bytes, of the document that the index holds; None: it holds none that we know of.
        deleted: the archive doesn't hold the study any more. With a ``digest`` the index still does, on purpose.
        rejected: the digest of the document that the index rejected last; None once something else was accepted.
        unverified: what was accepted is what a trigger recorded; the view is still to be read.
        series, instances: the last counts known, for an archive that forgets them; None: none were.
    """

    study_iuid: str
    study_pk: int
    version: int = 0
    digest: bytes | None = None
    deleted: bool = False
    rejected: bytes | None = None
    unverified: bool = False
    series: int | None = None
    instances: int | None = None

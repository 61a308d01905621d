"""What the central index was last told of a study: the entry of the ledger (pure)."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Entry"]


@dataclass(frozen=True, slots=True)
class Entry:
    """The last that is known of one study; never changed, each result makes a new one.

    Attributes:
        study_iuid: the key (``study_key`` of a study without one).
        study_pk: the primary key under which the archive had it then. The archive may give it to another study later.
        version: of the document or deletion that was last accepted, in microseconds since 1970; 0: none was.
        digest: 16 bytes, of the document that was last accepted; None: none was, or the study is deleted.
        deleted: the archive doesn't hold it any more, and the index was told so, or isn't to be told.
        rejected: the digest of the document that the index rejected last; None once another one was accepted.
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

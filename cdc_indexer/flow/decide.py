"""What is to be done with a study: the view against the ledger, in one function (pure)."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from cdc_indexer.flow.case import Hints, Insist
from cdc_indexer.model.ledger import Entry
from cdc_indexer.model.study import DIGEST_BYTES

if TYPE_CHECKING:
    from cdc_indexer.flow.policy import Policy
    from cdc_indexer.model.study import Document

__all__ = ["DELETION", "DOUBT", "INVALID", "Do", "Seen", "decide", "is_first", "may_hold", "unanswered"]

#: They stand in the ledger for the digest of what was rejected: a row that can't become a document, a deletion; and what
#: was sent and never answered, so that nobody knows whether it arrived. As long as a digest: the ledger has room for that.
INVALID = b"invalid".ljust(DIGEST_BYTES, b".")
DELETION = b"deletion".ljust(DIGEST_BYTES, b".")
DOUBT = b"doubt".ljust(DIGEST_BYTES, b".")


def unanswered(entry: Entry | None) -> bool:
    """Whether something was sent and never answered, so that nobody knows what the index has."""
    return entry is not None and entry.rejected == DOUBT


def is_first(entry: Entry | None) -> bool:
    """Whether the ledger knows of nothing that the index took: what is sent then is the study's first version."""
    return entry is None or (not entry.version and unanswered(entry))


def may_hold(entry: Entry) -> bool:
    """Whether the index may hold the study. (What was given up after answers that never came may have arrived.)"""
    if entry.digest is not None or unanswered(entry):
        return True
    return not entry.deleted and (entry.version > 0 or entry.rejected not in (None, INVALID))


class Do(Enum):
    """What follows."""

    #: Nothing differs, or nothing is to be sent: the hints settle.
    NOTHING = "nothing"
    SEND = "send"
    DELETE = "delete"
    #: It can't become a document: it is parked as if the index had rejected it.
    PARK = "park"
    #: It isn't quiet, or its images aren't counted: it is looked at again later.
    LATER = "later"


class Seen(NamedTuple):
    """A study as the view had it. ``document`` is None, and ``invalid`` says why, when its row can't become one."""

    document: Document | None
    invalid: str = ""
    series: int | None = None
    instances: int | None = None


def decide(
    policy: Policy,
    entry: Entry | None,
    seen: Seen | None,
    hints: Hints,
    *,
    stable: bool = True,
    believed: bool = True,
) -> tuple[Do, Entry | None]:
    """What to do, and the entry that the ledger then has if it is NOTHING.

    ``entry``: what the index was last told, None: nothing that we know of. ``seen``: what the archive holds, None: it
    doesn't. ``stable`` is False while a study that has to be quiet and counted isn't. ``believed`` is False while the index
    may have lost what the ledger says: what was recorded is sent then, equal or not, and what wasn't read back yet.
    """
    if seen is None:
        return _absent(policy, entry, hints)
    digest = seen.document.digest if seen.document is not None else INVALID
    holds = entry is not None and entry.digest is not None
    if hints.insist is not Insist.RESEND and entry is not None:
        # What was sent and never answered may have been a deletion: then not even an index that takes one version has it.
        known = not unanswered(entry)
        recorded = bool(hints.rows or hints.changes or entry.unverified)
        anyway = policy.updates and (hints.doubtful or (recorded and not believed))
        if holds and known and (entry.digest == digest or not policy.updates) and not anyway:
            return Do.NOTHING, entry._replace(unverified=False, deleted=False, rejected=None)
        if entry.rejected == digest and hints.insist is Insist.NO:
            return Do.NOTHING, entry._replace(unverified=False)
    if not stable:
        return Do.LATER, entry
    return (Do.SEND if seen.document is not None else Do.PARK), entry


def _absent(policy: Policy, entry: Entry | None, hints: Hints) -> tuple[Do, Entry | None]:
    """The archive doesn't hold the study."""
    again = hints.doubtful and entry is not None and entry.deleted
    if not (hints.gone or hints.newer or again):
        # Left to its 'deleted' row, which comes or has come, or to the sweep.
        return Do.NOTHING, entry and entry._replace(unverified=False)
    if entry is None:
        # Somebody else may have sent what the ledger doesn't know.
        return (Do.DELETE if policy.deletes else Do.NOTHING), None
    refused = entry.rejected == DELETION and hints.insist is Insist.NO
    if policy.deletes and not refused and (may_hold(entry) or again or hints.insist is not Insist.NO):
        return Do.DELETE, entry
    return Do.NOTHING, entry._replace(
        deleted=True,
        unverified=False,
        rejected=entry.rejected if refused else None,
        # Where only one version of a study goes, what is stored again after a deletion is a new one.
        digest=entry.digest if policy.updates else None,
    )

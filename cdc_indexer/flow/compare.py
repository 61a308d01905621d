"""A page of the view against the ledger: what differs (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cdc_indexer.flow.decide import INVALID, may_hold, unanswered
from cdc_indexer.model.errors import InvalidStudy
from cdc_indexer.model.ledger import Entry
from cdc_indexer.model.study import names, study_document, study_key

if TYPE_CHECKING:
    from cdc_indexer.flow.policy import Policy
    from cdc_indexer.flow.readings import Values

__all__ = ["Compared", "compare", "digest_of", "expected"]


@dataclass(slots=True)
class Compared:
    """What a page came to.

    Attributes:
        studies: how many the view has in it.
        missing, stale: (study_iuid, study_pk) of those that the index lacks, or has otherwise, by the ledger.
        gone: entries of studies that the view doesn't have at their study_pk, and that the index still has.
        kept: how many differ on purpose: deletions that are ignored, further versions without ``updates``, what is parked.
        keys: of all studies in the page.
    """

    studies: int = 0
    missing: list[tuple[str, int]] = field(default_factory=list)
    stale: list[tuple[str, int]] = field(default_factory=list)
    gone: list[Entry] = field(default_factory=list)
    kept: int = 0
    keys: set[str] = field(default_factory=set)


def digest_of(values: Values, entry: Entry | None, policy: Policy) -> bytes:
    """What the study comes to as it is in the view; counts that the archive has forgotten are the last that were known."""
    if entry is not None and (values.get("study_series") is None or values.get("study_instances") is None):
        values = dict(values)
        if values["study_series"] is None:
            values["study_series"] = entry.series
        if values["study_instances"] is None:
            values["study_instances"] = entry.instances
    try:
        return study_document(values, policy.center, policy.fields).digest
    except InvalidStudy:
        return INVALID


def expected(digest: bytes, entry: Entry | None, policy: Policy) -> bytes | None:
    """What the index should hold of a study that the view has with this digest; None: nothing."""
    held = entry.digest if entry is not None else None
    if digest == INVALID or (entry is not None and entry.rejected == digest):
        return held
    if held is not None and not policy.updates:
        return held
    return digest


def compare(
    policy: Policy, studies: Iterable[Values], entries: Mapping[str, Entry], *, scope_pk: int
) -> Compared:
    """``entries``: by study_key, those of the page's range and of the page's studies.

    A study that the ledger doesn't know is missing only above ``scope_pk``: what lies below may have been sent by
    somebody else.
    """
    found = Compared()
    for values in studies:
        uid, study_pk = names(values)
        key = study_key(uid, study_pk)
        found.studies += 1
        found.keys.add(key)
        entry = entries.get(key)
        digest = digest_of(values, entry, policy)
        wanted = expected(digest, entry, policy)
        held = entry.digest if entry is not None else None
        if wanted == held and not unanswered(entry):
            found.kept += digest != held
        elif held is not None:
            found.stale.append((uid, study_pk))
        elif entry is not None or study_pk > scope_pk:
            found.missing.append((uid, study_pk))
    for key, entry in entries.items():
        if key not in found.keys and may_hold(entry):
            if entry.deleted and not policy.deletes:
                found.kept += 1
            else:
                found.gone.append(entry)
    return found

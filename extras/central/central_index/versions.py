"""Which of two versions of a study counts (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from central_index.model import LARGEST_VERSION, Change, Deleted, Outcome, Stored, Verdict, key_digest

Key: TypeAlias = tuple[str, str]  # centre, study_iuid


class Held(NamedTuple):
    """What the index has of one study, be it that it was deleted.

    ``digest`` of the document; None too for one that was edited by hand.
    """

    version: int
    key_digest: bytes | None
    digest: bytes | None
    deleted: bool


def judge(held: Held | None, change: Change, clock: int, key_known: bool) -> Outcome:
    """What becomes of ``change``; to be carried out if APPLIED or ABSENT, with the outcome's version.

    ``clock``: the index's own, in microseconds since 1970. ``key_known``: the key came before, without a version.
    """
    key = key_digest(change)
    if change.version is None:
        # The order of arrival decides, as before there were versions.
        if key is not None and (key_known or (held is not None and held.key_digest == key)):
            return Outcome(Verdict.KNOWN, held.version if held is not None else 0)
        version = clock if held is None else max(clock, held.version + 1)
        return _carried_out(held, change, min(version, LARGEST_VERSION))
    if held is None or change.version > held.version:
        # Whether or not the key is known: the same request may come again as a newer version.
        return _carried_out(held, change, change.version)
    if change.version == held.version and key == held.key_digest and _same_document(held, change):
        return Outcome(Verdict.KNOWN, held.version)
    return Outcome(Verdict.STALE, held.version)


def after(change: Change, outcome: Outcome) -> Held:
    """What the index has once ``change`` was carried out."""
    return Held(outcome.version, key_digest(change), change.digest, isinstance(change, Deleted))


def places_of(changes: Sequence[Change]) -> dict[Key, list[int]]:
    """Of each study where its changes stand."""
    places: dict[Key, list[int]] = {}
    for place, change in enumerate(changes):
        places.setdefault((change.center, change.study_iuid), []).append(place)
    return places


def unseen(
    changes: Sequence[Change], places: Mapping[Key, Sequence[int]]
) -> Iterator[tuple[int, Stored, Outcome]]:
    """Those that need no look at what is there, as nearly all: one version, to be written if it is higher or the first.

    With what becomes of each if it was written; of one that wasn't, `judge` decides.
    """
    for place, *more in places.values():
        change = changes[place]
        # Nothing is above the highest number of all; without a version the order of arrival decides.
        if not more and isinstance(change, Stored) and change.version not in (None, LARGEST_VERSION):
            assert change.version is not None
            yield place, change, Outcome(Verdict.APPLIED, change.version)


def _carried_out(held: Held | None, change: Change, version: int) -> Outcome:
    absent = isinstance(change, Deleted) and (held is None or held.deleted)
    return Outcome(Verdict.ABSENT if absent else Verdict.APPLIED, version)


def _same_document(held: Held, change: Change) -> bool:
    if held.deleted or isinstance(change, Deleted):
        return held.deleted and isinstance(change, Deleted)
    return held.digest is None or held.digest == change.digest

"""What must be true after any fault: DESIGN 7's invariant, as one function that every test of it uses."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from cdc_indexer.state.parked_studies import ParkedStudies
from tests.pacs import Pacs

#: A description that says how often it was changed.
_NUMBERED = re.compile(r"V(\d+)")

_FIELDS = (
    "patient_pk",
    "patient_id",
    "patient_name",
    "study_pk",
    "study_iuid",
    "study_datetime",
    "study_description",
    "study_modality",
    "study_series",
    "study_instances",
)


@dataclass(frozen=True)
class Verdict:
    """Figures for the report at the end of the fault suite."""

    committed: int
    lost: tuple[str, ...]
    parked: int
    repeated: int
    same_key_different_body: tuple[str, ...]
    same_body_different_key: tuple[str, ...]
    order_violations: int


def parked_uids(state_dir: Path) -> set[str]:
    """The studies that are parked."""
    if not ParkedStudies.exists(state_dir):
        return set()
    parked = ParkedStudies(state_dir)
    try:
        return {entry.study_iuid for entry in parked.entries()}
    finally:
        parked.close()


def judge(entries: Iterable[Any], committed: Iterable[str], parked: Iterable[str] = ()) -> Verdict:
    """Compares the receiver's ledger (accepted entries, in order) with the studies that were committed.

    ``repeated`` counts POSTs that carried an Idempotency-Key accepted before.
    """
    committed = list(committed)
    accepted_uids = set()
    times: Counter[str] = Counter()
    bodies: dict[str, set[str]] = defaultdict(set)
    keys_of: dict[str, set[str]] = defaultdict(set)
    counts: dict[str, list[int]] = defaultdict(list)
    texts: dict[str, list[int]] = defaultdict(list)
    for entry in entries:
        body: Mapping[str, Any] = entry.json
        accepted_uids.add(body["study_iuid"])
        times[entry.idempotency_key] += 1
        text = json.dumps(body, sort_keys=True)
        bodies[entry.idempotency_key].add(text)
        keys_of[text].add(entry.idempotency_key)
        counts[body["study_iuid"]].append(body["study_instances"] or 0)
        if found := _NUMBERED.fullmatch(body["study_description"] or ""):
            texts[body["study_iuid"]].append(int(found[1]))
    parked = set(parked)
    return Verdict(
        committed=len(committed),
        lost=tuple(uid for uid in committed if uid not in accepted_uids and uid not in parked),
        parked=len(parked),
        repeated=sum(count - 1 for count in times.values()),
        same_key_different_body=tuple(key for key, texts in bodies.items() if len(texts) > 1),
        same_body_different_key=tuple(text for text, keys in keys_of.items() if len(keys) > 1),
        # The tests only ever let a study grow, and number its texts: an older version that comes later has less of one.
        order_violations=sum(
            1
            for seen in (*counts.values(), *texts.values())
            for left, right in pairwise(seen)
            if right < left
        ),
    )


def assert_nothing_lost(
    entries: Iterable[Any],
    committed: Iterable[str],
    *,
    parked: Iterable[str] = (),
    repeated_at_most: int = 0,
    two_sources: bool = False,
) -> Verdict:
    """The invariant: every committed study accepted or parked, few repeated and each under its old key, in order.

    ``two_sources``: the same studies were sent by `initial` and from the outbox, each under its own key.
    """
    verdict = judge(entries, committed, parked)
    assert not verdict.lost, f"lost {len(verdict.lost)} of {verdict.committed}: {verdict.lost[:5]}"
    again = len(verdict.same_body_different_key)
    assert verdict.repeated <= repeated_at_most, (
        f"{verdict.repeated} were sent twice, {repeated_at_most} allowed"
    )
    assert not verdict.same_key_different_body, (
        f"keys of two documents: {verdict.same_key_different_body[:5]}"
    )
    # The view is ahead of the binlog: what was read from it may be sent again for a row that a kill kept from us.
    assert two_sources or verdict.repeated + again <= repeated_at_most, (
        f"{again} were sent twice under two keys: {verdict.same_body_different_key[:3]}"
    )
    assert verdict.order_violations == 0, f"{verdict.order_violations} older versions came after newer ones"
    return verdict


def assert_index_equals_pacs(
    entries: Iterable[Any], pacs: Pacs, center: str, *, parked: Iterable[str] = ()
) -> None:
    """The last version sent of each study that isn't parked equals, field by field, what the archive holds."""
    parked = set(parked)
    newest = {entry.json["study_iuid"]: entry.json for entry in entries}
    for row in pacs.execute(f"SELECT {', '.join(_FIELDS)} FROM indexer_study"):
        wanted = dict(zip(_FIELDS, row, strict=True))
        moment = wanted["study_datetime"]
        wanted["study_datetime"] = moment and f"{moment:%Y-%m-%d %H:%M:%S}"
        if wanted["study_iuid"] not in parked:
            assert newest.get(wanted["study_iuid"]) == {**wanted, "center": center}

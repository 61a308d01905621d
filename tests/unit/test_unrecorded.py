"""Changes that nobody recorded: what counts as one, and what doesn't."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cdc_indexer.flow.policy import Policy
from cdc_indexer.jobs.unrecorded import Unrecorded
from cdc_indexer.model.ledger import Entry
from cdc_indexer.model.study import study_document
from cdc_indexer.source.outbox import Recorded

NOON = datetime(2026, 3, 1, 12)
STUDY: dict[str, object] = {
    "patient_pk": 3,
    "patient_id": "1-9",
    "patient_name": "A^B",
    "study_pk": 17,
    "study_iuid": "1.2",
    "study_datetime": NOON,
    "study_description": "before",
    "study_modality": "CT",
    "study_series": 1,
    "study_instances": 2,
}
CHANGED = {**STUDY, "study_description": "after"}


class World:
    """An engine and an outbox, as far as they are asked."""

    def __init__(self) -> None:
        self.policy = Policy("007")
        self.held = STUDY
        self.rows: list[Recorded] | None = []
        self.under_way: set[str] = set()
        self.looks = 0
        self.store = SimpleNamespace(lookup=self._lookup)
        self.watch = Unrecorded(cast(Any, self), cast(Any, self))

    @property
    def core(self) -> Any:
        cases = SimpleNamespace(get=lambda key: key if key in self.under_way else None)
        return SimpleNamespace(parts=SimpleNamespace(policy=self.policy, cases=cases))

    @contextmanager
    def inside(self) -> Any:
        yield self.core

    def _lookup(self, keys: list[str]) -> dict[str, Entry]:
        digest = study_document(self.held, "007", {}).digest
        return {key: Entry(key, 17, 1, digest) for key in keys}

    def recorded_since(self, since: datetime) -> list[Recorded] | None:
        return None if self.rows is None else [row for row in self.rows if row.recorded_at > since]

    def look(self, study: dict[str, object]) -> dict[int, str]:
        self.looks += 1
        return self.watch.find([study], NOON + timedelta(minutes=self.looks))


def row(**changes: Any) -> Recorded:
    return Recorded("changed", 17, 3, NOON + timedelta(minutes=1.5))._replace(**changes)


def test_what_was_equal_and_differs_twice_without_a_row() -> None:
    world = World()
    assert world.look(STUDY) == {}
    assert world.look(CHANGED) == {}, "a row may be on its way"
    assert world.look(CHANGED) == {17: "1.2"}
    world.held = CHANGED
    assert world.look(CHANGED) == {}


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([row()], False),
        ([row(study_pk=0, operation="patient")], False),
        ([row(study_pk=0, operation="patient", patient_pk=4)], True),
        ([row(study_pk=18)], True),
        ([row(recorded_at=NOON)], True),
        (None, False),
    ],
    ids=["its row", "its patient's", "another patient's", "another study's", "an old one", "too many to say"],
)
def test_a_row_that_says_so(rows: list[Recorded] | None, found: bool) -> None:
    world = World()
    world.look(STUDY)
    world.look(CHANGED)
    world.rows = rows
    assert bool(world.look(CHANGED)) is found


def test_what_is_no_sign() -> None:
    world = World()
    world.look(CHANGED)
    world.look(CHANGED)
    assert world.look(CHANGED) == {}, "never seen equal: the ledger may be another's"
    world = World()
    world.look(STUDY)
    world.look(CHANGED)
    assert world.look({**CHANGED, "study_description": "and again"}) == {}, "it is being changed"
    world = World()
    world.look(STUDY)
    world.under_way = {"1.2"}
    world.look(CHANGED)
    assert world.look(CHANGED) == {}, "under way"
    world = World()
    world.look(STUDY)
    world.policy = replace(world.policy, fields={"accession": "study_description"})
    world.look(CHANGED)
    assert world.look(CHANGED) == {}, "another document for every study"
    world = World()
    world.policy = replace(world.policy, updates=False)
    world.look(STUDY)
    world.look(CHANGED)
    assert world.look(CHANGED) == {}, "changes aren't sent"

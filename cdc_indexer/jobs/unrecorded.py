"""Changes that nobody recorded: what was as the index has it, looks different now, and has no row that says so.

A trigger on series or images that is gone shows by this alone: studies come, and their counts stay as they were at first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from cdc_indexer.flow.compare import digest_of, expected
from cdc_indexer.model.study import Operation, names, study_key

if TYPE_CHECKING:
    from cdc_indexer.flow.policy import Policy
    from cdc_indexer.jobs.engine import Engine
    from cdc_indexer.source.outbox import Outbox

__all__ = ["Unrecorded"]

_CHANGES = (Operation.CHANGED.value, Operation.PATIENT.value)


class _Differs(NamedTuple):
    uid: str
    digest: bytes
    patient_pk: object
    #: When it was as the index has it, by the database's clock.
    equal_at: datetime


class Unrecorded:
    """``find`` is called now and then, from one thread. A study counts once it differs in two looks, in the same way."""

    def __init__(self, engine: Engine, outbox: Outbox) -> None:
        self._engine = engine
        self._outbox = outbox
        self._policy: Policy | None = None
        self._equal_at: dict[int, datetime] = {}
        self._before: dict[int, _Differs] = {}

    def find(self, studies: Sequence[Mapping[str, object]], at: datetime) -> dict[int, str]:
        """Their UIDs by study_pk. ``studies`` were read from the view after ``at``; raises SourceError, StorageError."""
        now = self._differing(studies, at)
        before, self._before = self._before, now
        twice = {pk: one for pk, one in now.items() if pk in before and before[pk].digest == one.digest}
        if not twice:
            return {}
        # After the view: a row is there as soon as its change is.
        rows = self._outbox.recorded_since(min(one.equal_at for one in twice.values()))
        if rows is None:  # more than can be looked through: a pass will tell
            return {}

        def is_recorded(study_pk: int, one: _Differs) -> bool:
            return any(
                row.recorded_at > one.equal_at
                and (
                    row.study_pk == study_pk
                    or (row.operation == Operation.PATIENT.value and row.patient_pk == one.patient_pk)
                )
                for row in rows
            )

        return {pk: one.uid for pk, one in twice.items() if not is_recorded(pk, one)}

    def _differing(self, studies: Sequence[Mapping[str, object]], at: datetime) -> dict[int, _Differs]:
        engine = self._engine
        policy = engine.core.parts.policy
        if policy != self._policy:
            # Another document for each of them: that is said elsewhere.
            self._policy, self._equal_at, self._before = policy, {}, {}
        if not policy.updates:
            return {}
        keys = {names(study)[1]: study_key(*names(study)) for study in studies}
        entries = engine.store.lookup(list(keys.values()))
        with engine.inside() as core:
            under_way = {pk for pk, key in keys.items() if core.parts.cases.get(key) is not None}
        self._equal_at = {pk: moment for pk, moment in self._equal_at.items() if pk in keys}
        found = {}
        for study in studies:
            uid, study_pk = names(study)
            entry = entries.get(keys[study_pk])
            if entry is None or study_pk in under_way:
                continue
            digest = digest_of(study, entry, policy)
            if expected(digest, entry, policy) == entry.digest:
                self._equal_at[study_pk] = at
            elif study_pk in self._equal_at:
                found[study_pk] = _Differs(uid, digest, study.get("patient_pk"), self._equal_at[study_pk])
        return found

    def again(self, since: datetime) -> bool:
        """Whether a change was recorded since then."""
        rows = self._outbox.recorded_since(since)
        return rows is None or any(row.operation in _CHANGES for row in rows)

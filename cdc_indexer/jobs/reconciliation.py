"""A sweep's other half: the same pages of the view against the index itself, by digests (CONVERGENCE 5).

What the index has otherwise than the ledger says goes into the ledger: then view against ledger decides, as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cdc_indexer.delivery.index_client import MAX_RANGES, IndexClient, Listed, Range, TooMany
from cdc_indexer.flow.compare import digest_of, expected
from cdc_indexer.flow.readings import Values
from cdc_indexer.model.ledger import Entry
from cdc_indexer.model.study import names, study_key

if TYPE_CHECKING:
    from cdc_indexer.flow.policy import Policy
    from cdc_indexer.jobs.engine import Engine
    from cdc_indexer.source.outbox import Outbox

__all__ = ["Difference", "Ranges", "Reconciliation"]

#: So many studies of the view make a range.
RANGE = 1000

#: So many studies that the ledger doesn't know are kept before the index is asked.
_UNKNOWN = 20_000

_MODULUS = 1 << 128
_PAGE = 200


@dataclass(slots=True)
class _Open:
    """A range that is being read: what the index should hold of it."""

    after_pk: int | None
    studies: int = 0
    count: int = 0
    total: int = 0
    #: Something of it was under way, so that the sum says nothing.
    unclear: bool = False
    #: (key, study_pk, digest) of those that the ledger doesn't know: if the sum is right, the index has them.
    unknown: list[tuple[str, int, bytes]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Difference:
    """A study that the index has otherwise than it should: what it has and should have (None: nothing)."""

    study_iuid: str
    study_pk: int
    held: bytes | None
    wanted: bytes | None
    #: The archive doesn't hold it, as far as one reading says.
    extra: bool = False


@dataclass(slots=True)
class Ranges:
    """Collects what the pages of a sweep come to. ``suspects``: ranges that have to be looked at one study at a time."""

    ask: Callable[[list[Range]], list[tuple[int, int]]]
    adopt: Callable[[list[tuple[str, int, bytes]]], None]
    suspects: list[Range] = field(default_factory=list)
    _open: _Open = field(default_factory=lambda: _Open(None))
    _closed: list[tuple[Range, _Open]] = field(default_factory=list)
    _unknown: int = 0

    def add(
        self,
        studies: Iterable[Values],
        entries: Mapping[str, Entry],
        policy: Policy,
        *,
        unclear: bool,
        until_pk: int | None,
    ) -> None:
        """A page that ends at ``until_pk`` (None: with the archive)."""
        one = self._open
        one.unclear = one.unclear or unclear
        seen = set()
        for values in studies:
            key = study_key(*names(values))
            seen.add(key)
            one.studies += 1
            entry = entries.get(key)
            wanted = expected(digest_of(values, entry, policy), entry, policy)
            self._hold(wanted)
            if wanted is not None and (entry is None or entry.digest is None):
                one.unknown.append((key, names(values)[1], wanted))
                self._unknown += 1
        for key, entry in entries.items():
            if key not in seen:
                # Gone, and the index isn't told, or not yet.
                self._hold(entry.digest if entry.deleted and not policy.deletes else None)
        if until_pk is None or one.studies >= RANGE:
            self._close(until_pk)

    def _hold(self, digest: bytes | None) -> None:
        if digest is not None:
            self._open.count += 1
            self._open.total = (self._open.total + int.from_bytes(digest, "big")) % _MODULUS

    def _close(self, until_pk: int | None) -> None:
        one = self._open
        self._open = _Open(until_pk)
        this: Range = (one.after_pk, until_pk)
        if one.unclear:
            self.suspects.append(this)
        else:
            self._closed.append((this, one))
        if until_pk is None or len(self._closed) >= MAX_RANGES or self._unknown >= _UNKNOWN:
            self.finish()

    def finish(self) -> None:
        """Asks the index about the ranges that are read."""
        closed, self._closed = self._closed, []
        self._unknown = 0
        if not closed:
            return
        answers = self.ask([this for this, _ in closed])
        for (this, one), answer in zip(closed, answers, strict=True):
            if answer != (one.count, one.total):
                self.suspects.append(this)
            elif one.unknown:
                self.adopt(one.unknown)


class Reconciliation:
    """Looks at suspected ranges, one study at a time."""

    def __init__(self, engine: Engine, client: IndexClient, outbox: Outbox) -> None:
        self._engine = engine
        self._client = client
        self._outbox = outbox

    def differences(self, one: Range) -> list[Difference]:
        """What of a range the index has otherwise than it should, but for what is under way. Raises as its parts do."""
        try:
            listed = self._client.listed(one)
        except TooMany:
            middle = self._middle(one)
            return self.differences((one[0], middle)) + self.differences((middle, one[1]))
        held = {study.study_iuid: study for study in listed}
        return self._compare(one, held)

    def _middle(self, one: Range) -> int:
        after, until = one[0] or 0, one[1]
        if until is None:
            until = max(self._outbox.last_study_pk(), after + 2)
        return (after + until) // 2

    def _compare(self, one: Range, held: Mapping[str, Listed]) -> list[Difference]:
        engine = self._engine
        found: list[Difference] = []
        seen: set[str] = set()
        after_pk = one[0] or 0
        while True:
            studies = self._outbox.view_after(after_pk, _PAGE)
            inside = [values for values in studies if one[1] is None or names(values)[1] <= one[1]]
            keys = [study_key(*names(values)) for values in inside]
            entries = engine.store.lookup(keys)
            with engine.inside() as core:
                policy = core.parts.policy
                busy = {key for key in keys if core.busy(key)}
            for values, key in zip(inside, keys, strict=True):
                uid, study_pk = names(values)
                seen.add(uid)
                entry = entries.get(key)
                there = held[uid].digest if uid in held else None
                wanted = expected(digest_of(values, entry, policy), entry, policy)
                if key in busy or there == wanted:
                    self._adopt(key, study_pk, there, entry, busy)
                else:
                    found.append(Difference(uid, study_pk, there, wanted))
            if len(inside) < _PAGE:
                break
            after_pk = names(inside[-1])[1]
        return found + self._extra([study for uid, study in held.items() if uid not in seen])

    def _adopt(
        self, key: str, study_pk: int, there: bytes | None, entry: Entry | None, busy: set[str]
    ) -> None:
        """The index has what it should, and the ledger doesn't know it yet."""
        if key not in busy and there is not None and (entry is None or entry.digest != there):
            self._engine.correct(key, study_pk, there)

    def _extra(self, studies: list[Listed]) -> list[Difference]:
        """Those that the archive doesn't hold under another primary key either."""
        engine = self._engine
        found = []
        for start in range(0, len(studies), _PAGE):
            some = studies[start : start + _PAGE]
            there = {str(v.get("study_iuid")) for v in self._outbox.view_of([s.study_iuid for s in some])}
            entries = engine.store.lookup([study.study_iuid for study in some])
            with engine.inside() as core:
                deletes = core.parts.policy.deletes
                busy = {study.study_iuid for study in some if core.busy(study.study_iuid)}
            for study in some:
                entry = entries.get(study.study_iuid)
                kept = not deletes and entry is not None and entry.deleted and entry.digest == study.digest
                if study.study_iuid not in there and study.study_iuid not in busy and not kept:
                    found.append(Difference(study.study_iuid, study.study_pk, study.digest, None, extra=True))
        return found

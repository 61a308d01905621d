"""A sweep's other half: the same pages of the view against the index itself, by digests (CONVERGENCE 5).

What the index has otherwise than the ledger says goes into the ledger: then view against ledger decides, as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

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
RANGE = 2000

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
    #: (key, study_pk, digest) of those that the ledger doesn't know: if the sum is right, the index has them.
    unknown: list[tuple[str, int, bytes]] = field(default_factory=list)

    def hold(self, digest: bytes | None) -> None:
        """One study more; None: the index should hold nothing of it."""
        if digest is not None:
            self.count += 1
            self.total = (self.total + int.from_bytes(digest, "big")) % _MODULUS


class Difference(NamedTuple):
    """A study that the index has otherwise than it should: what it has and should have (None: nothing)."""

    study_iuid: str
    study_pk: int
    held: bytes | None
    wanted: bytes | None
    #: The archive doesn't hold it, as far as one reading says.
    extra: bool = False


class Ranges:
    """Collects what the pages of a pass come to, from behind ``after_pk`` on.

    ``ask`` gives what the index says of ranges, ``adopt`` is told of studies that the index was found to hold.
    """

    def __init__(
        self,
        ask: Callable[[list[Range]], list[tuple[int, int]]],
        adopt: Callable[[list[tuple[str, int, bytes]]], None],
        after_pk: int | None = None,
    ) -> None:
        self._ask = ask
        self._adopt = adopt
        self._open = _Open(after_pk or None)
        self._closed: list[tuple[Range, _Open]] = []
        self._unknown = 0
        self._suspects: list[Range] = []

    def add(
        self,
        studies: Iterable[Values],
        entries: Mapping[str, Entry],
        policy: Policy,
        *,
        busy: Set[str],
        until_pk: int | None,
    ) -> None:
        """A page that ends at ``until_pk`` (None: with the archive); what is ``busy`` says nothing, and is in no range."""
        page: list[tuple[int, str, bytes | None, bool]] = []
        for values in studies:
            uid, study_pk = names(values)
            key = study_key(uid, study_pk)
            entry = entries.get(key)
            wanted = expected(digest_of(values, entry, policy), entry, policy)
            page.append((study_pk, key, wanted, entry is None or entry.digest is None))
        seen = {key for _, key, _, _ in page}
        # Gone perhaps; the index has them as long as it isn't told.
        page += [
            (entry.study_pk, key, entry.digest, False) for key, entry in entries.items() if key not in seen
        ]
        page.sort(key=lambda one: one[0])
        for study_pk, key, wanted, unknown in page:
            if key in busy:
                self._close(study_pk - 1)
                self._open = _Open(study_pk)
                continue
            self._open.hold(wanted)
            self._open.studies += 1
            if wanted is not None and unknown:
                self._open.unknown.append((key, study_pk, wanted))
                self._unknown += 1
        if until_pk is None or self._open.studies >= RANGE:
            self._close(until_pk)
        if self._unknown >= _UNKNOWN:
            self._ask_about_closed()

    def _close(self, until_pk: int | None) -> None:
        one = self._open
        self._open = _Open(until_pk)
        if until_pk is None or one.after_pk is None or one.after_pk < until_pk:
            self._closed.append(((one.after_pk, until_pk), one))

    def finish(self, until_pk: int | None) -> list[Range]:
        """The pages end at ``until_pk`` for now: asks the index, and gives the ranges to be looked at study by study."""
        if self._open.studies:
            self._close(until_pk)
        self._ask_about_closed()
        suspects, self._suspects = self._suspects, []
        return suspects

    def _ask_about_closed(self) -> None:
        closed, self._closed = self._closed, []
        self._unknown = 0
        for start in range(0, len(closed), MAX_RANGES):
            some = closed[start : start + MAX_RANGES]
            for (this, one), answer in zip(some, self._ask([this for this, _ in some]), strict=True):
                if answer != (one.count, one.total):
                    self._suspects.append(this)
                elif one.unknown:
                    self._adopt(one.unknown)


class Reconciliation:
    """Looks at suspected ranges, one study at a time."""

    def __init__(
        self,
        engine: Engine,
        client: IndexClient,
        outbox: Outbox,
        wants: Callable[[Values], bool] | None = None,
    ) -> None:
        self._engine = engine
        self._client = client
        self._outbox = outbox
        self._wants = wants

    def differences(self, one: Range) -> list[Difference]:
        """What of a range the index has otherwise than it should, but for what is under way. Raises as its parts do."""
        try:
            listed = self._client.listed(one)
        except TooMany:
            middle = self._middle(one)
            if middle <= (one[0] or 0):
                raise
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
                if self._wants is not None and not self._wants(values):
                    continue
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
        if self._wants is not None:
            return found  # nobody can say whether what isn't there lay within the dates
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

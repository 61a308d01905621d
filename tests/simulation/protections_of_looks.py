"""Protections of looks, keys, versions and endings, each with what takes it out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cdc_indexer.flow import decide, looks
from cdc_indexer.flow.backfill import Backfill, Ended
from cdc_indexer.flow.backfills import Backfills
from cdc_indexer.flow.case import Case, Hints
from cdc_indexer.flow.cases import Cases
from cdc_indexer.flow.intake import Intake
from cdc_indexer.flow.keys import idempotency_key
from cdc_indexer.flow.looks import Looks
from cdc_indexer.flow.patients import ChangedPatients
from cdc_indexer.flow.results import Results
from cdc_indexer.flow.settlement import Settlement
from cdc_indexer.model.changes import Closing
from cdc_indexer.model.ledger import Entry
from cdc_indexer.model.version import VersionClock
from tests.simulation.archive import Server
from tests.simulation.taken_out import mutant, nothing

# --- what is looked at -----------------------------------------------------------------------------------


@mutant("a row that isn't visible yet is waited for")
def _(put: Any) -> None:
    end = Looks.end
    put(
        Looks,
        "end",
        lambda self, reading, found, now: end(self, reading, replace(found, unseen=frozenset()), now),
    )


@mutant("the view is read once it shows the row that was sent")
def _(put: Any) -> None:
    put(Case, "row_ids", lambda self, hints: [row_id for row_id, _ in hints.rows])


@mutant("a first version is compared with the view")
def _(put: Any) -> None:
    submit = Looks._submit

    def verified(self: Looks, *given: Any, recorded: bool = False) -> None:
        submit(self, *given, recorded=False)

    put(Looks, "_submit", verified)


@mutant("after a restart first versions are compared with the view")
def _(put: Any) -> None:
    put(Intake, "restore", nothing)


@mutant("rows with a newer one of their study aren't sent as recorded")
def _(put: Any) -> None:
    take = Intake.take
    put(
        Intake,
        "take",
        lambda self, row, now, *, streamed=False, superseded=False: take(self, row, now, streamed=streamed),
    )


@mutant("the ledger is asked before a first version goes out")
def _(put: Any) -> None:
    learn = Looks.learn
    put(Looks, "learn", lambda self, case, entries: learn(self, case, {}))


@mutant("results that aren't durable yet count")
def _(put: Any) -> None:
    put(Results, "entry", nothing)


@mutant("a page doesn't go out after what was read later")
def _(put: Any) -> None:
    put(Results, "put_since", lambda self, key, version: False)


@mutant("a version is drawn before what is read")
def _(put: Any) -> None:
    offer = Backfills.offer

    def late(
        self: Backfills, job: Any, studies: Any, rows: Any, version: int, epoch: int, now: Any, **named: Any
    ) -> Any:
        drawn = self._looks.draw(now)
        return None if drawn is None else offer(self, job, studies, rows, drawn, epoch, now, **named)

    put(Backfills, "offer", late)


@mutant("a study stored again under another key isn't gone")
def _(put: Any) -> None:
    end = Looks.end
    put(Looks, "end", lambda self, reading, found, now: end(self, reading, replace(found, by_uid={}), now))


@mutant("the view decides whether a study is gone, not its row")
def _(put: Any) -> None:
    real = decide.decide

    def by_row(policy: Any, entry: Any, seen: Any, hints: Hints, **named: Any) -> Any:
        return real(policy, entry, None if hints.gone else seen, hints, **named)

    put(looks, "decide", by_row)


@mutant("a deleted row is remembered until the look")
def _(put: Any) -> None:
    join = Hints.join

    def forgets(self: Hints, later: Hints) -> None:
        join(self, later)
        self.gone = False

    put(Hints, "join", forgets)


@mutant("a doubtful deletion or document may be held")
def _(put: Any) -> None:
    put(decide, "may_hold", lambda entry: entry.digest is not None)


@mutant("a primary key that another study has now isn't this one's")
def _(put: Any) -> None:
    put(looks, "study_key", lambda uid, pk: _AnyKey())


class _AnyKey(str):
    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


# --- keys and versions -----------------------------------------------------------------------------------


@mutant("a key is made of the document too")
def _(put: Any) -> None:
    put(
        looks,
        "idempotency_key",
        lambda center, seed, read=None: idempotency_key(center, str(seed).split(":")[0]),
    )


@mutant("a key is made of what is durable")
def _(put: Any) -> None:
    count = iter(range(10**9))
    put(looks, "idempotency_key", lambda center, seed, read=None: idempotency_key(center, next(count), read))


@mutant("versions grow over restarts")
def _(put: Any) -> None:
    init = VersionClock.__init__

    def anew(self: VersionClock, bound: int = 0) -> None:
        init(self, bound)
        self.last = 0

    put(VersionClock, "__init__", anew)


@mutant("versions are never ahead of their readings")
def _(put: Any) -> None:
    put(VersionClock, "wait_seconds", lambda self, now: 0.0)


@mutant("a study of which the index has a newer version is read again")
def _(put: Any) -> None:
    def given_up(self: Looks, delivery: Any, outcome: Any, now: Any) -> None:
        self._parts.settlement.nothing(delivery.case, delivery, delivery.hints, delivery.case.entry, now)

    put(Looks, "stale", given_up)


# --- what ends -------------------------------------------------------------------------------------------


@mutant("a look that finds nothing settles its rows")
def _(put: Any) -> None:
    settle = Settlement._settle

    def keeps(self: Settlement, case: Case, hints: Hints, entry: Entry | None, ended: Any) -> None:
        if ended is Ended.SKIPPED:
            self._cases.settled(hints)
            hints = replace(hints, rows=())
            self._cases.counted(hints)
        settle(self, case, hints, entry, ended)

    put(Settlement, "_settle", keeps)


@mutant("what was parked is closed once something else is accepted")
def _(put: Any) -> None:
    park = Results.park

    def opens(self: Results, parking: Any) -> None:
        if not isinstance(parking, Closing):
            park(self, parking)

    put(Results, "park", opens)


@mutant("a deletion closes what is parked, whatever the ledger says")
def _(put: Any) -> None:
    finish, nothing_sent, park = Settlement._finish, Settlement.nothing, Results.park

    def leaves_open(self: Results, parking: Any) -> None:
        if not isinstance(parking, Closing):
            park(self, parking)

    def knows_nothing(hints: Hints, before: Entry | None) -> bool:
        return not (hints.insist or hints.tickets) and (before is None or before.rejected is None)

    def finished(self: Settlement, delivery: Any, outcome: Any, *, accepted: bool) -> None:
        open_still = delivery.body is None and knows_nothing(delivery.hints, delivery.before)
        Results.park = leaves_open if open_still else park  # type: ignore[method-assign]
        finish(self, delivery, outcome, accepted=accepted)
        Results.park = park  # type: ignore[method-assign]

    def ended(self: Settlement, case: Case, owner: Any, hints: Hints, entry: Any, now: Any) -> None:
        Results.park = leaves_open if knows_nothing(hints, case.entry) else park  # type: ignore[method-assign]
        nothing_sent(self, case, owner, hints, entry, now)
        Results.park = park  # type: ignore[method-assign]

    put(Settlement, "_finish", finished)
    put(Settlement, "nothing", ended)


@mutant("what is rejected is parked")
def _(put: Any) -> None:
    park = Results.park

    def closes(self: Results, parking: Any) -> None:
        if isinstance(parking, Closing):
            park(self, parking)

    put(Results, "park", closes)


@mutant("a patient's row settles after the last study")
def _(put: Any) -> None:
    page_read = ChangedPatients.page_read

    def done_at_once(self: ChangedPatients, page: Any, keys: Any, last_pk: Any) -> Any:
        page_read(self, page, keys, last_pk)
        for change in page.changes:
            change.read = True
            change.open.clear()
        return self._done(page.changes)

    put(ChangedPatients, "page_read", done_at_once)


@mutant("all pages of a patient are read")
def _(put: Any) -> None:
    page_read = ChangedPatients.page_read
    put(ChangedPatients, "page_read", lambda self, page, keys, last_pk: page_read(self, page, keys, None))


@mutant("a patient is read once its row is visible")
def _(put: Any) -> None:
    put(Server, "uncommitted", lambda self, ids: set())


@mutant("a backfill is resumed behind what is done")
def _(put: Any) -> None:
    put(Backfill, "after_pk", property(lambda self: self.read_pk))


@mutant("a backfill leaves alone what is under way")
def _(put: Any) -> None:
    put(Cases, "get", nothing)


@mutant("what was looked up for an older ledger doesn't count")
def _(put: Any) -> None:
    put(Results, "ledger_is_new", property(lambda self: False))

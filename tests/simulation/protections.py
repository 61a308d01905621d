"""Protections of leases, rooms, epochs and the stream, each with what takes it out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cdc_indexer.flow.backfills import Backfills
from cdc_indexer.flow.case import Case, Hints
from cdc_indexer.flow.cases import Cases
from cdc_indexer.flow.core import Core
from cdc_indexer.flow.gate import Gatekeeper
from cdc_indexer.flow.intake import Intake
from cdc_indexer.flow.looks import Looks
from cdc_indexer.flow.order import Order
from cdc_indexer.flow.progress import Progress
from cdc_indexer.flow.settlement import Settlement
from cdc_indexer.flow.unproven import Unproven
from tests.simulation.archive import Server
from tests.simulation.taken_out import mutant, nothing

# --- leases and rooms ------------------------------------------------------------------------------------


@mutant("a reading that failed gives its leases back")
def _(put: Any) -> None:
    put(Looks, "give_back", nothing)


@mutant("a lease that is given back brings its hints back")
def _(put: Any) -> None:
    give_back = Cases.give_back

    def forgets(
        self: Cases, case: Case, owner: object, hints: Hints, now: Any, *, after_seconds: float
    ) -> None:
        self.settled(hints)
        give_back(self, case, owner, Hints(), now, after_seconds=after_seconds)

    put(Cases, "give_back", forgets)


@mutant("what was hinted at during a lease is looked at after it")
def _(put: Any) -> None:
    def end(self: Cases, case: Case, owner: object, now: Any) -> None:
        self._end_lease(case, owner)
        self.drop_if_idle(case)

    put(Cases, "end", end)


@mutant("a page of a patient that failed is given back")
def _(put: Any) -> None:
    put(Backfills, "give_back_page", nothing)


@mutant("who brings more waits for room")
def _(put: Any) -> None:
    put(Core, "room", lambda self: True)


@mutant("the hints under way are counted down again")
def _(put: Any) -> None:
    put(Cases, "settled", nothing)


@mutant("what was rejected before the index was seen to work is tried once more")
def _(put: Any) -> None:
    put(Gatekeeper, "_is_old", lambda self, key, began, now: False)


@mutant("a slot is held until its results are durable")
def _(put: Any) -> None:
    judged = Settlement.judged

    def early(self: Settlement, send: Any, *, updates: bool) -> int | None:
        generation = judged(self, send, updates=updates)
        if generation is not None:
            self._order._active -= 1
        return generation

    def release(self: Order, send: Any) -> None:
        for delivery, _outcome in send.final:
            self._queued[delivery.behind] -= 1

    put(Settlement, "judged", early)
    put(Order, "release", release)


@mutant("a study's turn is held until its result is durable")
def _(put: Any) -> None:
    finish = Settlement._finish

    def early(self: Settlement, delivery: Any, outcome: Any, *, accepted: bool) -> None:
        finish(self, delivery, outcome, accepted=accepted)
        case = delivery.case
        case.lease, delivery.hints = None, Hints()
        self._cases._leased -= 1
        if case.waits:
            from cdc_indexer.model.moment import Now

            self._cases.schedule(case, Now(0.0, 0), soon=True)
        self._cases.drop_if_idle(case)

    put(Settlement, "_finish", early)
    put(Cases, "end", nothing)


# --- epochs ----------------------------------------------------------------------------------------------


@mutant("what was read in another epoch decides nothing")
def _(put: Any) -> None:
    end = Looks.end

    def any_epoch(self: Looks, reading: Any, found: Any, now: Any) -> None:
        reading.epoch = self._parts.epoch
        end(self, reading, replace(found, epoch=self._parts.epoch), now)

    put(Looks, "end", any_epoch)


@mutant("another server's rows are forgotten")
def _(put: Any) -> None:
    put(Intake, "_forget_rows", lambda self: self._looks.withdraw())
    put(Looks, "drop_rows", nothing)


@mutant("a row that the stream brings again isn't forgotten with an old reading's")
def _(put: Any) -> None:
    put(Progress, "is_streamed", lambda self, row_id: False)


@mutant("what was read from another server isn't sent any more")
def _(put: Any) -> None:
    put(Looks, "withdraw", nothing)


@mutant("what was sent and never answered is doubtful")
def _(put: Any) -> None:
    put(Settlement, "doubt", nothing)


# --- the stream ------------------------------------------------------------------------------------------


@mutant("the position waits for a transaction's rows")
def _(put: Any) -> None:
    put(Progress, "end_transaction", lambda self, position, columns=None: self._move(position, columns))


@mutant("the position waits for the transactions before")
def _(put: Any) -> None:
    def close(self: Progress) -> None:
        for transaction in [one for one in self._transactions if not one.open_rows]:
            self._transactions.remove(transaction)
            self._move(transaction.position, transaction.columns)  # type: ignore[arg-type]

    put(Progress, "_close_transactions", close)


@mutant("a row that the audit took belongs to the transaction that brings it")
def _(put: Any) -> None:
    def claim(self: Progress, row_id: int, *, streamed: bool = False) -> bool:
        if row_id in self._settled or row_id in self._claimed:
            return False
        transaction = self._reading if streamed else None
        self._claimed[row_id] = transaction
        if transaction is not None:
            transaction.open_rows += 1
        return True

    put(Progress, "claim", claim)


@mutant("settled rows aren't taken again")
def _(put: Any) -> None:
    claim = Progress.claim

    def forgetful(self: Progress, row_id: int, *, streamed: bool = False) -> bool:
        before, self._settled = self._settled, _Empty()  # type: ignore[assignment]
        try:
            return claim(self, row_id, streamed=streamed)
        finally:
            self._settled = before

    put(Progress, "claim", forgetful)


class _Empty:
    def __contains__(self, row_id: int) -> bool:
        return False


@mutant("settled ids are kept until the position has passed them")
def _(put: Any) -> None:
    propose = Progress.propose_until
    put(Progress, "propose_until", lambda self, until, end: propose(self, until, None))


@mutant("rows that aren't committed hold until back")
def _(put: Any) -> None:
    ids_after = Server.ids_after

    def committed(self: Server, after: Any, limit: int) -> Any:
        return [mark for mark in ids_after(self, after, 1000) if self.outbox[mark[1]].visible][:limit]

    put(Server, "ids_after", committed)


@mutant("until doesn't pass rows that aren't settled")
def _(put: Any) -> None:
    # What the audit proposes, it proposes without asking what is settled.
    put(Progress, "is_settled", lambda self, row_id: True)


@mutant("until goes back with the clock")
def _(put: Any) -> None:
    put(Core, "take_until_back", nothing)


@mutant("until doesn't pass the newest row")
def _(put: Any) -> None:
    put(Server, "newest", lambda self, not_after: not_after)


# --- an index that went back -----------------------------------------------------------------------------


@mutant("the ledger isn't believed until the index was compared")
def _(put: Any) -> None:
    put(Core, "doubt", nothing)


@mutant("what the index accepted is asked for until it was seen there")
def _(put: Any) -> None:
    put(Unproven, "accepted", nothing)


@mutant("what is under way when the index is asked is asked for again")
def _(put: Any) -> None:
    put(
        Core,
        "lost",
        lambda self, key, accepted: not (self.busy(key) or key in self.parts.settlement.unproven),
    )


@mutant("what is under way when the ledger is believed again is sent once more")
def _(put: Any) -> None:
    def believe(self: Core, now: Any) -> None:
        self.parts.believed = True

    put(Core, "believe", believe)

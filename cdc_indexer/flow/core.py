"""The core: what was recorded comes in, what is to be sent goes out, and nothing is forgotten in between (passive).

No thread, no clock, no socket, no file: what happens is a call with the present (``Now``), what is to be done is asked for.
Whoever calls holds one lock around it, for microseconds, and carries out what comes back:

    rows of stream and audit   intake.take, intake.end_transaction
    the ledger                 intake.to_look_up -> intake.looked_up     first versions go out as recorded
    the view                   looks.begin -> looks.end                  (looks.give_back on every other way out)
    backfills                  backfills.offer -> looks.end              behind what is live; or backfills.hint
    the index                  take_sends -> judge
    the disk                   take_changes -> durable                   turns and slots are free
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cdc_indexer.flow.backfills import Backfills
from cdc_indexer.flow.case import Hints
from cdc_indexer.flow.cases import Cases
from cdc_indexer.flow.intake import Intake
from cdc_indexer.flow.looks import Looks
from cdc_indexer.flow.order import Delivery, Order, Send
from cdc_indexer.flow.parts import Parts
from cdc_indexer.flow.patients import ChangedPatients
from cdc_indexer.flow.policy import Policy
from cdc_indexer.flow.progress import Progress
from cdc_indexer.flow.settlement import Result
from cdc_indexer.flow.unproven import Accepted
from cdc_indexer.flow.verdict import Change
from cdc_indexer.model.changes import Changes
from cdc_indexer.model.moment import Now
from cdc_indexer.model.outcome import Kind, Outcome
from cdc_indexer.model.position import Position
from cdc_indexer.model.version import VersionClock

__all__ = ["Core"]


class Core:
    """See the module; docs/architecture.md draws it."""

    def __init__(
        self,
        policy: Policy,
        progress: Progress,
        clock: VersionClock,
        order: Order,
        cases: Cases | None = None,
        patients: ChangedPatients | None = None,
    ) -> None:
        cases = Cases(policy) if cases is None else cases
        self.parts = Parts(policy, progress, clock, order, cases, patients or ChangedPatients())
        self.looks = Looks(self.parts)
        self.intake = Intake(self.parts, self.looks)
        self.backfills = Backfills(self.parts, self.looks)

    # --- questions ---------------------------------------------------------------------------------------

    def room(self) -> bool:
        """Whether more rows may be brought; else the caller waits until something ended."""
        parts = self.parts
        return not (parts.cases.full or parts.patients.full or parts.order.full(behind=False))

    def at_rest(self, now: Now) -> bool:
        """Whether nothing is under way and everything is durable.

        But for studies that ``send: stable`` leaves to the next time, since they aren't quiet.
        """
        parts = self.parts
        if parts.cases.leased or self.intake.looking_up or parts.patients.open or parts.order.pending:
            return False
        if parts.results.pending:
            return False
        return not len(parts.cases) or (not parts.early and parts.cases.quiet.seconds(now.seconds) > 0)

    def reading_seconds(self, now: Now) -> float:
        """Until something of the view may be wanted."""
        parts = self.parts
        seconds = 0.0 if parts.early and len(parts.cases) else parts.cases.quiet.seconds(now.seconds)
        seconds = max(seconds, self.looks.wait_seconds(now))
        patients = parts.patients.seconds(now.seconds)
        return seconds if patients is None else min(seconds, patients)

    def busy(self, key: str) -> bool:
        """Whether something of that study is under way, or its last result isn't durable."""
        return self.parts.cases.get(key) is not None or self.parts.results.entry(key) is not None

    # --- settings ----------------------------------------------------------------------------------------

    def use(self, policy: Policy) -> None:
        """Other settings from now on."""
        self.parts.policy = self.parts.cases.policy = policy

    def new_epoch(self) -> None:
        """The source's settings are others: what is being read now decides nothing."""
        self.parts.enter(self.parts.epoch + 1)

    def hurry(self) -> None:
        """From now on nothing waits for quiet: the program is to end once all is sent."""
        self.parts.hurry = True

    # --- the ledger --------------------------------------------------------------------------------------

    def lost(self, key: str, accepted: Accepted) -> bool:
        """Whether the index has lost this, which it was seen not to hold.

        Not if something newer of it was accepted meanwhile; nor while something of it is under way, and then the index is
        asked again another time.
        """
        unproven = self.parts.settlement.unproven
        if key in unproven:
            return False
        if self.busy(key):
            unproven.give_back([(key, accepted)])
            return False
        return True

    def doubt(self) -> None:
        """The index may have lost what the ledger says."""
        self.parts.believed = False

    def believe(self, now: Now) -> None:
        """The index itself was compared, but for what is under way: nobody asked for that, so it is sent once more."""
        self.parts.believed = True
        for case in self.parts.cases:
            waits_to_be_sent = isinstance(case.lease, Delivery) and not case.lease.taken
            if case.first is None and not waits_to_be_sent:
                self.parts.cases.hint(case, Hints(look=True, doubtful=True), now)

    # --- the audit ---------------------------------------------------------------------------------------

    def propose_until(self, until: datetime, end: Position | None) -> None:
        """See Progress."""
        self.parts.progress.propose_until(until, end)
        if self.parts.progress.moved:
            self.parts.results.moved()

    def take_until_back(self, until: datetime) -> None:
        """See Progress."""
        self.parts.progress.take_until_back(until)
        self.parts.results.moved()

    # --- the index ---------------------------------------------------------------------------------------

    def take_sends(self, now: Now) -> tuple[list[Send], float]:
        """What is to be sent now, one for each free slot, and the seconds until there may be more."""
        return self.parts.order.take(now.seconds)

    def asks(self, outcomes: Sequence[Outcome], now: Now) -> bool:
        """Whether the index is to be asked by GET before these outcomes can be judged."""
        return self.parts.order.asks(outcomes, now.seconds)

    def judge(
        self,
        send: Send,
        outcomes: Sequence[Outcome],
        now: Now,
        *,
        began: float,
        asked: Outcome | None = None,
    ) -> tuple[int | None, list[Change]]:
        """What came of a request: the generation that has to be durable before its slot is free, and what changed.

        None: nothing is final, and the slot is free. Changes are those of the gate, to be told. ``began``: when the request
        did, by ``Now.seconds``; ``asked``: what a GET gave, where ``asks`` said so.
        """
        parts = self.parts
        changes = parts.order.judge(send, outcomes, began=began, now=now.seconds, asked=asked)
        if len(send.final) < len(send.deliveries):
            final = {delivery for delivery, _ in send.final}
            for delivery, outcome in zip(send.deliveries, outcomes, strict=True):
                # What was refused didn't arrive.
                if delivery not in final and not 300 <= (outcome.status or 0) < 500:
                    parts.settlement.doubt(delivery)
            # What is queued again may have been read from a server that isn't followed any more.
            self.looks.withdraw()
        for delivery, outcome in send.final:
            if outcome.kind is Kind.STALE:
                self.looks.stale(delivery, outcome, now)
        generation = parts.settlement.judged(send, updates=parts.policy.updates)
        for delivery, _ in send.final:
            if delivery.epoch < parts.rows_epoch:
                # Its rows are another server's: that this one doesn't show them doesn't say that the study is gone.
                delivery.case.verify_ids = ()
        return generation, changes

    # --- the disk ----------------------------------------------------------------------------------------

    def end(self) -> None:
        """Nothing is read any more: what is written next is the last."""
        self.parts.results.set("version_bound", self.parts.clock.end())

    def take_changes(self, now: Now) -> tuple[int, Changes]:
        """What the next durable step writes, and the generation that is durable after it."""
        return self.parts.results.take(now.clock)

    def durable(self, generation: int, now: Now) -> list[Result]:
        """Everything of that generation is on the disk: turns and slots are free. What is to be told."""
        return self.parts.settlement.durable(generation, now)

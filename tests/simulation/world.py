"""A world: time, the archive's servers, the index, the disk, one process at a time, and what can happen next."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cdc_indexer.flow.order as order_module
from cdc_indexer.flow.compare import digest_of
from cdc_indexer.flow.decide import unanswered
from cdc_indexer.flow.order import Delivery
from cdc_indexer.flow.policy import Policy
from cdc_indexer.model.ledger import Entry
from cdc_indexer.model.moment import moment
from cdc_indexer.model.version import AHEAD
from tests.simulation.actors import steps_of
from tests.simulation.archive import BEGINNING, SHOWN_LATE, Archive, Server, Transaction
from tests.simulation.disk import Disk
from tests.simulation.index import Broken, Index
from tests.simulation.invariants import check_disk, check_jobs, check_transactions
from tests.simulation.process import Process

__all__ = ["Config", "Step", "World"]

#: What happened, by name, and what was drawn for it.
Step = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Config:
    """What stays as it is for the whole of a world."""

    stable: bool = False
    updates: bool = True
    deletes: bool = False
    versions: bool = False
    knows_keys: bool = False
    conflicts: bool = False
    concurrency: int = 2
    batch_size: int = 1
    max_studies: int = 50
    max_hints: int = 200
    max_patients: int = 100
    queue_limit: int = 256
    reading_limit: int = 200
    page: int = 3
    #: So many studies of a page of `initial` are offered together.
    chunk: int = 50
    #: At the end it is stopped and started again, and another sweep looks for differences.
    thorough: bool = True
    give_up_seconds: float = 300.0
    #: `initial` begins a new ledger.
    restarts: bool = False
    #: Studies that were there before the triggers.
    already_there: int = 0
    #: The index takes reports and says what it holds.
    reports: bool = False
    #: No more than half a minute passes at a time: what until would pass isn't hidden from who follows another server.
    short: bool = False
    replica: bool = False
    follow_replica: bool = False
    features: tuple[str, ...] = ()


class World:
    """What ``enabled`` names can happen; ``do`` lets it. ``draw`` decides the rest: 0 is what goes well."""

    def __init__(self, config: Config, trace: list[str] | None = None, disk: Disk | None = None) -> None:
        self.config = config
        self.seconds = 1000.0
        self.trace = trace
        self.jitter = random.Random(7)
        self.policy = Policy("c", stable=config.stable, updates=config.updates, deletes=config.deletes)
        self.index = Index(versions=config.versions, knows_keys=config.knows_keys, conflicts=config.conflicts)
        self.index.say = self.say
        self.index.in_doubt = lambda: self.process is not None and self.process.doubted is not None
        self.disk = Disk() if disk is None else disk
        self.process: Process | None = None
        self.primary = self.server = Server("one", 1_000_000)
        self.archive = Archive(self.primary)
        self.index.births = self.archive.births
        self.replica: Server | None = None
        if config.replica:
            self.replica = Server("two", 5 << 24)
            self.primary.relay = []
            if config.follow_replica:
                self.server = self.replica
        #: Requests of processes that are dead; the index may still take them.
        self.zombies: list[Any] = []
        self.database_away = False
        #: Something happened that only a sweep finds.
        self.sweep_needed = False
        #: A replica that is followed showed rows long after they were recorded; some of the log was never read.
        self.shown_late = self.log_lost = False
        self.scope_complete = not config.already_there
        #: Rows that were taken out of the table.
        self.pruned: set[int] = set()
        self.clock_jumped = False
        #: The clock went back, and no audit has looked at it since.
        self.back_unseen = False
        self.settings_changed = False
        self.last_version = 0
        #: The highest that a process was told of: by the index, or by the ledger.
        self.version_seen = 0
        self.runs = 0
        self.kills = 0
        self.resends = 0
        self.doubts = 0
        #: The index went back; what it had accepted just before a process ended is forgotten, so that it isn't noticed.
        self.went_back = self.proof_lost = False
        #: Studies of which a kill made the program forget what the index took.
        self.uncertain: set[str] = set()
        self.durable_generation = 0
        self.next_draws: Callable[[int], int] = lambda n: 0
        #: Ids that were durably settled, ever.
        self.settled: set[int] = set()
        #: Rows in the log before a fresh position: the audit brings them.
        self.ahead_of_stream: set[int] = set()
        order_module.QUEUE_LIMIT = config.queue_limit
        self._prepare()

    def _prepare(self) -> None:
        archive = self.archive
        if self.config.already_there:
            archive.triggers_on = False
            for _ in range(self.config.already_there):
                transaction = archive.begin()
                patient = archive.new_patient(transaction)
                archive.store(transaction, patient, None, 2, 0)
                self.primary.log_transaction(transaction)
                self.primary.show(transaction)
            archive.triggers_on = True
            if self.replica is not None:
                self.apply_all()

    # --- small things ------------------------------------------------------------------------------------

    def clock(self) -> int:
        """That of the followed server."""
        return self.archive.now + self.server.clock_ahead

    def pass_time(self, seconds: float) -> None:
        self.seconds += seconds
        self.archive.now = BEGINNING + int((self.seconds - 1000.0) * 1e6)

    def draw(self, n: int) -> int:
        """Something in [0, n)."""
        return self.next_draws(n) if n > 1 else 0

    def say(self, *what: object) -> None:
        if self.trace is not None:
            self.trace.append("      " + " ".join(map(str, what)))

    def apply_one(self) -> None:
        """The replica takes a transaction over."""
        assert self.replica is not None and self.primary.relay is not None
        transaction = self.primary.relay.pop(0)
        if self.server is self.replica:
            # What isn't committed on the primary nobody sees here: `until` may have passed it, and then the log alone tells.
            # (Not where it only lags: it is behind the newest that is shown.)
            late = moment(self.clock() - SHOWN_LATE)
            late = min(late, self.replica.last_recorded())
            times = [row.row.recorded_at for row in transaction.rows]
            self.shown_late = self.shown_late or any(time is not None and time < late for time in times)
            self.log_lost = self.log_lost or transaction.opaque
        self.replica.apply(transaction)

    def apply_all(self) -> None:
        assert self.primary.relay is not None
        while self.primary.relay:
            self.apply_one()

    # --- processes ---------------------------------------------------------------------------------------

    def start(self, mode: str) -> None:
        self.disk.begin()
        self.process = Process(self, mode)
        self.process.begin(steps_of(self.process))
        self.durable_generation = 0
        self.say("started", mode)

    def end_process(self) -> None:
        self._forget_proof()
        self.process = None

    def _forget_proof(self) -> None:
        """What the index held before what it accepted isn't durable; nor is, after a kill, what was accepted last."""
        process = self.process
        assert process is not None
        unproven = process.core.parts.settlement.unproven
        lost = unproven.changed or process.meta.get("unproven") != self.disk.meta.get("unproven")
        self.proof_lost = self.proof_lost or lost or bool(unproven.study_pks)

    def kill(self) -> None:
        process = self.process
        assert process is not None
        process.kill()
        self.kills += 1
        for request in process.requests:
            if request.outcomes is None:
                if self.config.versions:
                    self.zombies.append(request)
                elif self.draw(2):
                    self.index.take(request)
        self.check_memory_of_index(process)
        self._forget_proof()
        self.process = None

    def check_memory_of_index(self, process: Process) -> None:
        """Promise 2: what a kill makes the index see twice."""
        requests = [*(request for _, request in process.unsure), *process.requests]
        forgotten = sum(len(request.arrivals) for request in requests)
        self.uncertain.update(
            delivery.study_iuid for request in requests for delivery in request.send.deliveries
        )
        # What was never answered, when that wasn't durable yet.
        self.uncertain.update(
            key
            for key, entry in process.put.items()
            if entry is not None and unanswered(entry) and self.disk.ledger.get(key) != entry
        )
        if not self.config.versions:
            self.index.may_go_back |= self.uncertain & self.archive.unrecorded
        if forgotten > self.config.concurrency * self.config.batch_size:
            raise Broken(f"a kill forgets {forgotten} results")

    def commit(self, process: Process, generation: int, changes: Any) -> None:
        """A step of the state's writer is on the disk."""
        self.disk.apply(changes, self.seconds)
        process.committed(generation)
        self.durable_generation = generation
        check_disk(self, changes)
        check_transactions(process)
        check_jobs(self, process)

    def row_taken(self, row_id: int) -> None:
        """Somebody takes it: then it wasn't settled.

        (Ids are forgotten with their time: a clock that goes back, or a server that lags, shows their rows once more.)
        """
        late_rows = self.clock_jumped or not self.index.marks_count or self.config.follow_replica
        if row_id in self.settled and not late_rows:
            raise Broken(f"row {row_id} is taken again, though it is durably settled")

    def version_drawn(self, version: int, given_out: int) -> None:
        """``given_out``: the last one before, of this process."""
        if version <= self.last_version:
            raise Broken(f"version {version} is given out after {self.last_version}")
        # Else it would win over what another process has read since. (Another writer's may lie ahead, and who begins after a
        # kill begins a bound behind that.)
        seen = max(self.version_seen, self.index.raised and self.index.raised + AHEAD)
        if version > max(self.clock(), given_out, seen) + 1 and not self.clock_jumped:
            raise Broken(f"version {version} is ahead of its reading, at {self.clock()}")
        if version == self.version_seen + 1:
            self.version_seen = version
        self.last_version = version

    def skip_log(self, server: Server) -> None:
        """A position is taken anew, at the end of the log."""
        self.ahead_of_stream.update(
            row.id for one in server.log for event in one.events for row in event or ()
        )

    def sent(self, process: Process, send: Any) -> None:
        """A request goes out."""
        for delivery in send.deliveries:
            if delivery.epoch < process.core.parts.rows_epoch:
                raise Broken(f"what was read of {delivery.key} from another server is sent")
            if delivery.before is not None and delivery.before.version >= delivery.version:
                raise Broken(f"{delivery.key} is sent though the ledger has something newer")
            here = process.source.epoch == process.began_in
            if delivery.recorded and here and delivery.rows[0][0] in process.superseded:
                raise Broken(f"{delivery.key} is sent as recorded, though there was a newer row at the start")

    def decided(self, process: Process) -> None:
        """What the core takes the ledger to say is what was put there last."""
        for case in process.core.parts.cases:
            if case.known and case.lease is None:
                self.learned(process, case)

    def settled_by_ledger(self, process: Process, entry: Entry | None) -> None:
        """What was recorded is settled since the ledger says that the index has it: not while that is in doubt."""
        if process.doubted is None or entry is None or entry.digest is None or entry.rejected is not None:
            return
        values = self.server.by_uid([entry.study_iuid]).get(entry.study_iuid)
        same = values is not None and digest_of(values, entry, self.policy) == entry.digest
        held = self.index.digests().get(entry.study_iuid)
        if same and (held is None or held[1] != entry.digest):
            raise Broken(f"{entry.study_iuid} is settled by a ledger that is in doubt: the index hasn't that")

    def believed(self, process: Process) -> None:
        """The ledger is believed again: what it says is true, or will be sent."""
        held, view = self.index.digests(), self.server.view()
        for uid, entry in ({**self.disk.ledger, **process.put}).items():
            if entry is None or entry.digest is None or entry.rejected is not None:
                continue
            values = view.get(entry.study_pk)
            if values is None or digest_of(values, entry, self.policy) != entry.digest:
                continue
            case = process.core.parts.cases.get(uid)
            waits = case is not None and (case.hints.doubtful or isinstance(case.lease, Delivery))
            if not waits and (uid not in held or held[uid][1] != entry.digest):
                raise Broken(f"the ledger is believed again, and the index hasn't {uid}")

    def asks_the_disk(self, process: Process, key: str) -> None:
        """What the ledger says of a study is looked up there: then nothing else is on its way to it."""
        entry = process.put.get(key)
        if entry is not None and self.disk.ledger.get(key) != entry:
            raise Broken(f"the ledger is asked about {key}, and what was put there isn't durable yet")

    def learned(self, process: Process, case: Any) -> None:
        """The same of one study, when it is looked at."""
        if not process.core.parts.results.ledger_is_new:
            entry = process.put.get(case.key) or self.disk.ledger.get(case.key)
            if case.entry != entry:
                raise Broken(
                    f"the core takes the ledger to say {case.entry} of {case.key}, but it is {entry}"
                )

    def hidden(self, process: Process, reading: Any) -> set[int]:
        """Rows that a reading of now doesn't show, though it is about them."""
        settled = process.core.parts.progress.is_settled
        rows = {row_id for _, hints in reading.leases for row_id, _ in hints.rows if not settled(row_id)}
        rows.update(row_id for case, _ in reading.leases for row_id in case.verify_ids)
        return rows - self.server.visible(rows)

    def decided_without(self, process: Process, rows: set[int]) -> None:
        """That reading has ended: they wait still, or nobody holds them any more."""
        hidden = rows - self.pruned
        if hidden:
            cases = list(process.core.parts.cases)
            waits = {row_id for case in cases for row_id, _ in case.hints.rows}
            waits.update(row_id for case in cases if case.lease is None for row_id in case.verify_ids)
            servers = [self.primary] if self.replica is None else [self.primary, self.replica]
            for row_id in hidden - waits:
                if process.core.parts.progress.known(row_id) and any(row_id in one.outbox for one in servers):
                    raise Broken(f"row {row_id} is decided about by a reading that didn't show it")

    def initial_began(self) -> None:
        """Its beginning is durable."""

    def initial_done(self) -> None:
        self.scope_complete = True

    def fail_over(self) -> None:
        """The replica takes over with what it has; what it hasn't is lost, and what it gives out begins there."""
        assert self.replica is not None
        self.primary = self.server = self.archive.server = self.replica
        self.replica = None
        self.archive.next_pk = 1 + max([*self.primary.studies, *self.primary.patients], default=0)
        self.sweep_needed = True
        # What was read from the other one may still go out.
        self.index.marks_count = False

    # --- transactions ------------------------------------------------------------------------------------

    def transaction(self) -> tuple[Transaction, bool]:
        """One to write in; whether it is to be committed at once."""
        open_ones = [one for one in self.primary.transactions if not one.logged]
        how = self.draw(4)
        if how < 2 or (how == 3 and len(self.primary.transactions) >= 3):
            return self.archive.begin(), True
        if how == 2 and open_ones:
            return open_ones[self.draw(len(open_ones))], False
        return self.archive.begin(), False

    def finish(self, transaction: Transaction, at_once: bool) -> None:
        if at_once:
            if not transaction.studies and not transaction.patients and not transaction.rows:
                self.primary.transactions.remove(transaction)
                return
            self.primary.log_transaction(transaction)
            # Now and then the log has it a while before the table shows it.
            if self.draw(6) < (3 if "stale" in self.config.features else 5):
                self.primary.show(transaction)

    def free_uids(self) -> list[str]:
        """That a study had, and none has now."""
        taken = {study.uid for study in self.primary.studies.values()}
        for one in self.primary.transactions:
            taken |= {study.uid for study in one.studies.values() if study is not None}
        return sorted(uid for uid in self.archive.uids if uid not in taken)

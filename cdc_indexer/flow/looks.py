"""Looks at studies: who has the turn, what the view said, what follows, and under which key it is sent (passive)."""

from __future__ import annotations

from collections.abc import Mapping

from cdc_indexer.flow.backfill import Ended
from cdc_indexer.flow.case import Case, Hints, Insist
from cdc_indexer.flow.decide import DELETION, INVALID, Do, Seen, decide, is_first
from cdc_indexer.flow.keys import idempotency_key
from cdc_indexer.flow.order import Delivery
from cdc_indexer.flow.parts import Parts
from cdc_indexer.flow.readings import Found, Reading, Values
from cdc_indexer.model.changes import Parking
from cdc_indexer.model.errors import InvalidStudy
from cdc_indexer.model.ledger import Entry
from cdc_indexer.model.moment import Now, microseconds
from cdc_indexer.model.outcome import Outcome
from cdc_indexer.model.study import OutboxRow, names, study_document, study_key

__all__ = ["READING_LIMIT", "Looks"]

#: How many studies are read from the view at a time.
READING_LIMIT = 200

#: A study whose images nobody counts goes out after this. Counts bring a row; should that be missing, the view is looked
#: at now and then.
_UNCOUNTED_SECONDS = 86_400.0
_LOOK_AGAIN_SECONDS = 600.0

#: Rows that the view doesn't show yet are looked for again after this.
_UNSEEN_SECONDS = 0.05

#: A row that was sent before a restart is visible by then, so that a study that isn't has gone (microseconds).
_SHOWN = 600_000_000

#: A study of which the index has a newer version, without saying which, is read again after this, twice that, ...
_STALE_SECONDS = 0.1
_STALE_MAX_SECONDS = 60.0
_STALE_SAID = 3


class Looks:
    """What holds always: a study is read, decided about and sent under one lease.

    So nothing newer can have been accepted since it was read. Of a page of a backfill, which is read before the lease,
    ``Results.put_since`` says so. What was read in another epoch of the source decides nothing.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        #: The index doesn't say which version it has of these, again and again: their study_pks, to be told.
        self.puzzling: list[int] = []

    # --- cases -------------------------------------------------------------------------------------------

    def case_of(self, key: str, study_pk: int, study_iuid: str) -> Case:
        """The case of a study; a new one knows what isn't durable yet, the disk has the rest."""
        cases = self._parts.cases
        new = cases.get(key) is None
        case = cases.ensure(key, study_pk, study_iuid)
        if new:
            entry = self._parts.results.entry(key)
            if entry is not None:
                case.entry, case.known = entry, True
        return case

    def learn(self, case: Case, entries: Mapping[str, Entry]) -> None:
        """What the ledger says of the study, unless that is known."""
        if not case.known:
            case.entry = None if self._parts.results.ledger_is_new else entries.get(case.key)
            case.known = True
        if case.entry is not None:
            self._parts.clock.saw(case.entry.version)

    # --- the view ----------------------------------------------------------------------------------------

    def wait_seconds(self, now: Now) -> float:
        """How long until a version can be drawn, and so anything be read."""
        return self._parts.clock.wait_seconds(now.clock)

    def draw(self, now: Now) -> int | None:
        """A version, before something is read. None: wait for so long, or its bound has to be durable: write the changes."""
        version = self._parts.clock.draw(now.clock)
        if version is None and not self.wait_seconds(now):
            self._parts.results.moved()
        return version

    def begin(self, now: Now, limit: int = READING_LIMIT) -> Reading | None:
        """Leases the studies that are due; None when none is, or there is no room for what would be sent."""
        parts = self._parts
        if parts.order.full(behind=False) or (parts.cases.quiet.seconds(now.seconds) > 0 and not parts.early):
            return None
        version = self.draw(now)
        if version is None:
            return None
        reading = Reading(version, parts.epoch, parts.results.ledger_epoch)
        for case in parts.cases.quiet.due(now.seconds, limit, early=parts.early):
            reading.add(case, parts.cases.lease(case, reading))
        return reading if reading.leases else None

    def give_back(self, reading: Reading, now: Now, *, after_seconds: float = _UNSEEN_SECONDS) -> None:
        """The reading failed, or its epoch is over: its studies wait again. Does nothing once it has ended."""
        if reading.open:
            reading.open = False
            for case, hints in reading.leases:
                if reading.epoch < self._parts.rows_epoch:
                    self.drop_rows(hints)
                self._parts.cases.give_back(case, reading, hints, now, after_seconds=after_seconds)

    def end(self, reading: Reading, found: Found, now: Now) -> None:
        """Decides about each of its studies."""
        parts = self._parts
        if not reading.open:
            return
        parts.enter(found.epoch)
        if found.epoch != parts.epoch or reading.epoch != parts.epoch:
            self.give_back(reading, now)
            return
        reading.open = False
        studies = found.studies if reading.values is None else reading.values
        ledger_counts = reading.ledger_epoch == parts.results.ledger_epoch
        for case, hints in reading.leases:
            if not case.known and not ledger_counts:
                parts.cases.give_back(case, reading, hints, now, after_seconds=0.0)
            elif found.unseen and not found.unseen.isdisjoint(case.row_ids(hints)):
                parts.cases.give_back(case, reading, hints, now, after_seconds=_UNSEEN_SECONDS)
            else:
                self.learn(case, found.entries)
                values = studies.get(reading.pks[case.key])
                if not _is(values, case.key):
                    if case.study_iuid and not hints.asks_by_uid:
                        # Stored again under another primary key, perhaps: rows of an earlier life may come last.
                        hints.by_uid = True
                        parts.cases.give_back(case, reading, hints, now, after_seconds=0.0)
                        continue
                    values = found.by_uid.get(case.study_iuid, values)
                self._look(case, reading, hints, values, found, now)

    def _look(
        self, case: Case, reading: Reading, hints: Hints, values: Values | None, found: Found, now: Now
    ) -> None:
        parts = self._parts
        entry = case.entry
        if values is not None and not _is(values, case.key):
            # Its primary key is that of another study now: what was recorded under it is looked at there.
            if hints.rows and not hints.gone:
                self._move_rows(hints, values, now)
            values = None
        if values is not None and case.study_pk == reading.pks[case.key]:
            case.study_pk = names(values)[1]
        recent = entry is not None and entry.unverified and now.clock - entry.version < _SHOWN
        if values is None and recent and not (hints or case.verify_ids or parts.early):
            # Restored after a restart: nobody remembers the row that has to be visible first.
            parts.cases.give_back(case, reading, hints, now, after_seconds=parts.policy.settle_seconds)
            return
        seen = None if values is None else self._seen(values, entry)
        wait_seconds = 0.0 if seen is None else self._unstable_seconds(case, seen, hints, found, now)
        do, after = decide(
            parts.policy, entry, seen, hints, stable=wait_seconds <= 0, believed=parts.believed
        )
        if do is Do.LATER:
            self._leave_tickets(hints)
            parts.cases.give_back(case, reading, hints, now, after_seconds=wait_seconds)
        elif do is Do.NOTHING:
            parts.settlement.nothing(case, reading, hints, after, now)
        elif do is Do.DELETE:
            self._submit(case, reading, hints, None, reading.version, self._key(case, hints, b"", DELETION))
        else:
            assert seen is not None
            document = seen.document
            if document is None:
                self._park_invalid(case, reading, hints, seen, self._key(case, hints, b"", INVALID), now)
            else:
                key = self._key(case, hints, document.body, document.digest)
                self._submit(case, reading, hints, seen, reading.version, key)

    def _leave_tickets(self, hints: Hints) -> None:
        """A backfill doesn't wait for images to be counted: that is left to the study's rows."""
        cases = self._parts.cases
        cases.settled(hints)
        for ticket in hints.tickets:
            ticket.end(Ended.SKIPPED)
        hints.tickets = ()
        cases.counted(hints)

    def send_recorded(self, case: Case, owner: object, hints: Hints, row: OutboxRow, now: Now) -> None:
        """Sends a first version as its row was recorded; ``owner`` has the lease."""
        # By hand it may be dated in the future.
        version = min(microseconds(row.recorded_at), now.clock)
        self._parts.clock.took(version)
        seen = self._seen(row.values, None)
        document = seen.document
        key = idempotency_key(self._parts.policy.center, row.id, document.body if document else b"")
        if document is None:
            self._park_invalid(case, owner, hints, seen, key, now)
        else:
            self._submit(case, owner, hints, seen, version, key, recorded=True)

    def _move_rows(self, hints: Hints, values: Values, now: Now) -> None:
        cases = self._parts.cases
        uid, study_pk = names(values)
        moved = Hints(rows=hints.rows, live=True)
        cases.settled(moved)
        hints.rows = ()
        cases.hint(self.case_of(study_key(uid, study_pk), study_pk, uid), moved, now, soon=True)

    def _seen(self, values: Values, entry: Entry | None) -> Seen:
        """A study's document; counts that the archive has forgotten are the last that were known."""
        policy = self._parts.policy
        series, instances = values.get("study_series"), values.get("study_instances")
        if entry is not None and (series is None or instances is None):
            series = entry.series if series is None else series
            instances = entry.instances if instances is None else instances
            values = {**values, "study_series": series, "study_instances": instances}
        counts = _count(series), _count(instances)
        try:
            return Seen(study_document(values, policy.center, policy.fields), "", *counts)
        except InvalidStudy as error:
            return Seen(None, str(error), *counts)

    def _unstable_seconds(self, case: Case, seen: Seen, hints: Hints, found: Found, now: Now) -> float:
        """With `send: stable`: how long the study has to wait because it isn't quiet, or its images aren't counted."""
        policy = self._parts.policy
        if not policy.stable or not hints.rows:
            return 0.0
        waited = (now.clock - microseconds(min(moment for _, moment in hints.rows))) / 1e6
        left = 0.0
        # What came while nobody listened, or hasn't been read yet, counts as well. (Later than now: clocks go back.)
        newest = found.newest.get(case.study_pk)
        if newest is not None and microseconds(newest) <= now.clock:
            left = policy.settle_seconds - (now.clock - microseconds(newest)) / 1e6
        holds = case.entry is not None and case.entry.digest is not None
        # An archive that doesn't count at all says NULL.
        if left <= 0 and seen.instances == 0 and not holds:
            left = min(_UNCOUNTED_SECONDS - waited, _LOOK_AGAIN_SECONDS)
        return min(left, policy.max_wait_seconds - waited)

    def _key(self, case: Case, hints: Hints, body: bytes, digest: bytes) -> str:
        """What is sent again after a kill has the key that it had: it is made of what is durable, and of the document."""
        center, before = self._parts.policy.center, case.entry
        if hints.insist is Insist.RESEND:
            return idempotency_key(center, f"{hints.seed}:{case.key}", body)
        if hints.insist is Insist.RETRY and hints.seed and before is not None and before.rejected == digest:
            # The same document once more: it may have arrived after all, and what the key was made of may be gone.
            return hints.seed
        if before is not None and not is_first(before):
            held = before.digest.hex() if before.digest is not None else "nothing"
            return idempotency_key(center, f"{case.key}:{before.version}:{held}", body)
        # Rows before tickets: whether `initial` or a row comes first may be otherwise after a kill.
        if hints.rows:
            # What lies before a deletion may be settled by itself. The others may be dated later: clocks go back.
            by_time = sorted((recorded_at, row_id) for row_id, recorded_at in hints.rows)
            if digest == DELETION:
                return idempotency_key(center, (hints.deleted or by_time[-1])[1], body)
            return idempotency_key(center, (hints.rows_since_deleted or by_time)[0][1], body)
        if hints.tickets and hints.tickets[0].backfill.name == "initial":
            return idempotency_key(center, f"initial:{hints.tickets[0].backfill.run}:{case.study_pk}", body)
        return idempotency_key(center, f"{case.key}:0", body)

    # --- what is sent ------------------------------------------------------------------------------------

    def _submit(
        self,
        case: Case,
        owner: object,
        hints: Hints,
        seen: Seen | None,
        version: int,
        key: str,
        *,
        recorded: bool = False,
    ) -> None:
        parts = self._parts
        document = seen.document if seen is not None else None
        after = Entry(
            case.key,
            case.study_pk,
            version=version,
            digest=document.digest if document is not None else None,
            deleted=document is None,
            unverified=recorded and parts.policy.updates,
            series=seen.series if seen is not None else None,
            instances=seen.instances if seen is not None else None,
        )
        delivery = Delivery(
            case,
            hints,
            key,
            document.body if document is not None else None,
            version,
            after,
            case.entry,
            document.digest if document is not None else DELETION,
            first_version=case.entry is None or case.entry.digest is None,
            epoch=parts.epoch,
            recorded=recorded,
            behind=not (hints.live or case.hints.live),
        )
        parts.cases.hand_on(case, owner, delivery)
        parts.order.submit(delivery)

    def _park_invalid(self, case: Case, owner: object, hints: Hints, seen: Seen, key: str, now: Now) -> None:
        reason = f"the row can't become a study: {seen.invalid}"
        ids = tuple(row_id for row_id, _ in hints.rows)
        parking = Parking(case.key, case.study_pk, case.study_iuid, "post", key, ids, b"", None, reason, "")
        entry = (case.entry or Entry(case.key, case.study_pk))._replace(rejected=INVALID, unverified=False)
        self._parts.settlement.invalid(case, owner, hints, parking, entry, now)

    def stale(self, delivery: Delivery, outcome: Outcome, now: Now) -> None:
        """The index has a newer version: the study is read again, and sent with a higher number."""
        case = delivery.case
        delivery.hints.newer = True
        if outcome.version is not None:
            self._parts.clock.saw(outcome.version)
            case.stale, pause = 0, 0.0
        else:
            pause = min(_STALE_SECONDS * 2.0 ** min(case.stale, 16), _STALE_MAX_SECONDS)
            case.stale += 1
            if case.stale == _STALE_SAID:
                self.puzzling.append(delivery.study_pk)
        self._parts.cases.give_back(case, delivery, delivery.hints, now, after_seconds=pause)

    # --- another server ----------------------------------------------------------------------------------

    def withdraw(self) -> None:
        """What waits to be sent was read from another server: its studies wait again, without that one's rows."""
        parts = self._parts
        for delivery in parts.order.withdraw(parts.rows_epoch):
            self.drop_rows(delivery.hints)
            parts.cases.give_back(delivery.case, delivery, delivery.hints, Now(0.0, 0), after_seconds=0.0)

    def drop_rows(self, hints: Hints) -> None:
        """Forgets rows of another server: whoever meets them again may take them.

        But for those that the stream has brought from this one meanwhile, while a lease had them.
        """
        parts, progress = self._parts, self._parts.progress
        parts.cases.settled(hints)
        here = parts.stream_epoch >= parts.rows_epoch
        kept = {row_id: at for row_id, at in hints.rows if here and progress.is_streamed(row_id)}
        progress.forget(row_id for row_id, _ in hints.rows if row_id not in kept)
        hints.rows, hints.changes = list(kept.items()), ()
        if hints.deleted is None or hints.deleted[1] not in kept:
            hints.gone, hints.newer, hints.deleted = False, False, None
        parts.cases.counted(hints)


def _is(values: Values | None, key: str) -> bool:
    """Whether a row of the view is that study."""
    # Nearly always it has the UID.
    return values is not None and (values.get("study_iuid") == key or study_key(*names(values)) == key)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None

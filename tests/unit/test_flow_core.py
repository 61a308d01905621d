"""The core by hand, a course at a time: what the simulation found, as the shortest that shows it."""

from __future__ import annotations

import random
from datetime import datetime, timedelta

import pytest

from cdc_indexer.flow.backfill import Backfill
from cdc_indexer.flow.case import Hints, Insist
from cdc_indexer.flow.cases import Cases
from cdc_indexer.flow.compare import compare
from cdc_indexer.flow.core import Core
from cdc_indexer.flow.decide import DOUBT, Do, Seen, decide, is_first, may_hold
from cdc_indexer.flow.gate import Gatekeeper
from cdc_indexer.flow.order import Order, Send
from cdc_indexer.flow.patients import PatientChange
from cdc_indexer.flow.policy import Policy
from cdc_indexer.flow.progress import Progress
from cdc_indexer.flow.readings import Found, Reading
from cdc_indexer.flow.unproven import MANY, Accepted, Unproven, shows_loss
from cdc_indexer.model.changes import Changes, Closing, Parking, State
from cdc_indexer.model.ledger import Entry
from cdc_indexer.model.moment import Now, microseconds
from cdc_indexer.model.outcome import Kind, Outcome
from cdc_indexer.model.position import Identity, Position
from cdc_indexer.model.settled import Settled
from cdc_indexer.model.study import OutboxRow, study_document
from cdc_indexer.model.version import FAR_AHEAD, MAX_VERSION, VersionClock

NOON = datetime(2026, 5, 4, 12)
ACCEPTED = Outcome(Kind.ACCEPTED, 201)
LOST = Outcome(Kind.RETRY_INDEX, None, reason="timeout")


def study(uid: str = "1.2", pk: int = 5, text: str = "a", patient_pk: int = 1) -> dict[str, object]:
    return {
        "patient_pk": patient_pk,
        "patient_id": "1-9",
        "patient_name": "A^B",
        "study_pk": pk,
        "study_iuid": uid,
        "study_datetime": None,
        "study_description": text,
        "study_modality": "CT",
        "study_series": 1,
        "study_instances": 2,
    }


def row(row_id: int, operation: str = "stored", at: datetime = NOON, **values: object) -> OutboxRow:
    return OutboxRow(row_id, operation, at, {**study(), **values})


class Drive:
    """A core, and a disk that is a Changes' worth of dictionaries."""

    def __init__(self, policy: Policy | None = None, until: datetime | None = None) -> None:
        self.policy = policy or Policy("c")
        progress = Progress(
            Settled(until) if until else Settled(), Identity("s", "pacsdb"), Position("bin.1", 4)
        )
        order = Order(Gatekeeper(60.0, 4, random.Random(1)), 4)
        self.core = Core(self.policy, progress, VersionClock(), order)
        self.ledger: dict[str, Entry] = {}
        self.written: list[Changes] = []
        self.seconds = 0.0
        self.write()

    @property
    def now(self) -> Now:
        return Now(self.seconds, microseconds(NOON) + int(self.seconds * 1e6))

    def write(self) -> Changes:
        generation, changes = self.core.take_changes(self.now)
        if changes.new_ledger:
            self.ledger.clear()
        self.ledger.update(changes.ledger)
        self.ledger.update(changes.verified)
        self.written.append(changes)
        self.core.durable(generation, self.now)
        return changes

    def look_up(self) -> None:
        epoch, keys = self.core.intake.to_look_up()
        entries = {key: self.ledger[key] for key in keys if key in self.ledger}
        self.core.intake.looked_up(epoch, keys, entries, self.now)

    def begin(self) -> Reading | None:
        """A reading begins, if something is to be read."""
        reading = self.core.looks.begin(self.now)
        if reading is None:
            self.write()  # perhaps the bound of the versions had to be moved
            reading = self.core.looks.begin(self.now)
        return reading

    def read(self, *studies: dict[str, object]) -> int:
        """One reading of the view, which holds these; how many studies it was for."""
        reading = self.begin()
        if reading is None:
            return 0
        entries = {key: self.ledger[key] for key in reading.keys if key in self.ledger}
        by_pk = {int(str(values["study_pk"])): values for values in studies}
        by_uid = {str(values["study_iuid"]): values for values in studies}
        found = Found(reading.epoch, by_pk, by_uid=by_uid, entries=entries)
        self.core.looks.end(reading, found, self.now)
        return len(reading.leases)

    def take(self) -> list[Send]:
        return self.core.take_sends(self.now)[0]

    def answer(self, send: Send, outcome: Outcome = ACCEPTED) -> None:
        self.core.judge(send, [outcome] * len(send.deliveries), self.now, began=self.seconds)

    def send_all(self) -> list[str]:
        """All that is to be sent is accepted; its keys."""
        keys = []
        while sends := self.take():
            for send in sends:
                keys += [delivery.idempotency_key for delivery in send.deliveries]
                self.answer(send)
            self.write()
        return keys

    def at_rest(self) -> bool:
        return not len(self.core.parts.cases) and self.core.at_rest(self.now)


def test_a_bare_hint_is_looked_at() -> None:
    drive = Drive()
    drive.core.backfills.hint("1.2", 5, drive.now)
    drive.seconds += 6
    assert drive.read(study()) == 1
    assert len(drive.send_all()) == 1
    assert drive.at_rest()


def test_a_slot_is_free_when_its_result_is_durable() -> None:
    """Else a kill would have more requests sent twice than there are slots."""
    drive = Drive()
    for number in range(1, 7):
        drive.core.intake.take(row(number, study_iuid=f"1.{number}", study_pk=number), drive.now)
    drive.look_up()
    sends = drive.take()
    assert len(sends) == 4
    for send in sends:
        drive.answer(send)
    assert drive.take() == []
    drive.write()
    assert len(drive.take()) == 2


def test_a_settled_row_is_not_taken_again() -> None:
    drive = Drive()
    drive.core.intake.take(row(7), drive.now, streamed=True)
    drive.look_up()
    assert len(drive.send_all()) == 1
    for streamed in (True, False):
        assert not drive.core.intake.take(row(7), drive.now, streamed=streamed)


def test_what_is_durable_are_the_columns_at_the_position_and_not_others() -> None:
    """Else rows would be read with the columns of before, if the table was altered there and back."""
    before, after = (
        (("id", "bigint", True), ("a", "int", False)),
        (("a", "int", False), ("id", "bigint", True)),
    )
    drive = Drive()
    intake = drive.core.intake

    def durable() -> tuple[object, object]:
        meta = drive.write().meta
        return meta["position"]["offset"], meta["columns"]

    intake.end_transaction(Position("bin.1", 100), before)
    assert durable() == (100, before)
    intake.end_transaction(Position("bin.1", 200), after)
    assert durable() == (200, after)
    # A transaction that waits for its row, and one behind it that has none: the position is the end of both.
    intake.take(row(7), drive.now, streamed=True)
    intake.end_transaction(Position("bin.1", 300), after)
    intake.end_transaction(Position("bin.1", 400), before)
    drive.look_up()
    for send in drive.take():
        drive.answer(send)
    assert durable() == (400, before)
    intake.restart_stream(Position("bin.2", 4), columns=after)
    assert durable() == (4, after)
    intake.restart_stream(Position("bin.3", 4))
    assert durable() == (4, None)


def test_what_a_sweep_finds_goes_with_the_row_that_comes_meanwhile() -> None:
    drive = Drive()
    drive.core.backfills.hint("1.2", 5, drive.now)
    assert drive.read(study()) == 0
    drive.core.intake.take(row(7), drive.now, streamed=True)
    drive.seconds += 6
    drive.read(study())
    keys = drive.send_all()
    alone = Drive()
    alone.core.intake.take(row(7), alone.now, streamed=True)
    alone.look_up()
    assert keys == alone.send_all()


def test_the_bounds_of_the_cases_that_it_is_given_hold() -> None:
    drive = Drive()
    cases = Cases(drive.policy, max_studies=1)
    order = Order(Gatekeeper(60.0, 4, random.Random(1)), 4)
    core = Core(drive.policy, Progress(Settled()), VersionClock(), order, cases)
    core.intake.take(row(7), drive.now)
    assert not core.room()


def test_what_the_ledger_said_before_another_server_is_not_believed_of_what_that_one_brings() -> None:
    drive = Drive()
    drive.core.intake.take(row(7), drive.now, streamed=True)
    number, keys = drive.core.intake.to_look_up()
    drive.core.intake.restart_stream(Position("bin.1", 4), Identity("another", "pacsdb"))
    drive.core.intake.take(row(7), drive.now, streamed=True)
    # Meanwhile the study may have been under way, and got an entry.
    drive.core.intake.looked_up(number, keys, {}, drive.now)
    assert drive.core.intake.looking_up
    drive.look_up()
    assert not drive.core.intake.looking_up
    assert len(drive.send_all()) == 1


def test_a_first_version_that_a_backfill_overtakes_keeps_its_key() -> None:
    """The ledger is being asked about its row when an `initial` comes to it; after a kill it may be otherwise."""
    alone, overtaken = Drive(), Drive()
    for drive in (alone, overtaken):
        drive.core.intake.take(row(7), drive.now, streamed=True)
    alone.look_up()
    overtaken.core.backfills.hint("1.2", 5, overtaken.now, backfill=Backfill("initial", "run", {}))
    overtaken.seconds += 6
    assert overtaken.read(study()) == 1
    overtaken.look_up()
    assert overtaken.send_all() == alone.send_all()
    overtaken.write()
    assert overtaken.core.parts.progress.is_settled(7)


def test_a_study_without_patient_comes_to_rest() -> None:
    drive = Drive()
    drive.core.intake.take(row(7), drive.now, streamed=True)
    drive.look_up()
    drive.send_all()
    drive.seconds += 6
    assert drive.read() == 1  # the view doesn't show it
    assert drive.read() == 1  # nor by its UID
    drive.write()
    assert drive.at_rest()
    assert not drive.ledger["1.2"].unverified


def test_after_a_restart_a_study_that_is_not_visible_yet_is_waited_for() -> None:
    drive = Drive()
    drive.ledger["1.2"] = Entry("1.2", 5, version=drive.now.clock, digest=b"old", unverified=True)
    drive.core.intake.restore([drive.ledger["1.2"]], drive.now)
    drive.seconds += 1
    assert drive.read() == 1
    assert drive.read() == 1
    drive.seconds += 6
    assert drive.read(study()) == 1
    assert len(drive.send_all()) == 1
    assert drive.at_rest()


def test_a_new_ledger_looks_at_what_was_sent_as_recorded_to_the_old_one() -> None:
    """The backfill may have read its place in the view before its transaction was visible there."""
    drive = Drive()
    drive.core.intake.take(row(7), drive.now, streamed=True)
    drive.look_up()
    drive.send_all()
    drive.core.backfills.begin_ledger(drive.now)
    drive.write()
    drive.seconds += 6
    reading = drive.begin()
    assert reading is not None
    assert reading.row_ids == [7]
    drive.core.looks.give_back(reading, drive.now, after_seconds=0.0)
    drive.read(study())
    drive.send_all()
    drive.write()
    assert drive.ledger["1.2"].digest == study_document(study(), "c").digest
    assert drive.at_rest()


@pytest.mark.parametrize("clock", [1, -1], ids=["", "that went back"])
def test_the_deletion_of_an_unknown_study_has_the_key_of_the_row_that_says_so(clock: int) -> None:
    keys = []
    for first_one_too in (True, False):
        drive = Drive(Policy("c", deletes=True))
        if first_one_too:
            drive.core.intake.take(row(7), drive.now, superseded=True)
        drive.core.intake.take(row(8, "deleted", NOON + timedelta(seconds=clock)), drive.now)
        drive.seconds += 1
        drive.read()
        keys += drive.send_all()
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_a_study_stored_again_has_the_key_of_its_new_life() -> None:
    keys = []
    for earlier_life_too in (True, False):
        drive = Drive()
        if earlier_life_too:
            drive.core.intake.take(row(7, study_pk=4), drive.now, superseded=True)
            drive.core.intake.take(row(8, "deleted", NOON + timedelta(seconds=1), study_pk=4), drive.now)
        drive.core.intake.take(row(9, at=NOON + timedelta(seconds=2)), drive.now, superseded=True)
        drive.seconds += 6
        drive.read(study())
        keys += drive.send_all()
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_rows_go_before_tickets_in_a_key() -> None:
    keys = []
    for fed in (True, False):
        drive = Drive()
        # With a newer row in the table it isn't sent as recorded.
        drive.core.intake.take(row(7, text="older"), drive.now, superseded=True)
        if fed:
            drive.core.backfills.hint("1.2", 5, drive.now, backfill=Backfill("initial", "run", {}))
        drive.seconds += 6
        drive.read(study())
        keys += drive.send_all()
    assert len(keys) == 2
    assert len(set(keys)) == 1


@pytest.mark.parametrize("deletes", [True, False])
def test_what_was_given_up_without_an_answer_is_deleted_like_what_arrived(deletes: bool) -> None:
    entry = Entry("1.2", 5, rejected=b"digest of what was parked")
    do, _ = decide(Policy("c", deletes=deletes), entry, None, Hints(gone=True))
    assert do is (Do.DELETE if deletes else Do.NOTHING)


def test_what_was_never_answered_is_doubtful_until_something_is_final() -> None:
    drive = Drive()
    drive.core.intake.take(row(7), drive.now, streamed=True)
    drive.look_up()
    (send,) = drive.take()
    drive.answer(send, LOST)
    drive.write()
    assert drive.ledger["1.2"].rejected == DOUBT
    assert is_first(drive.ledger["1.2"])
    assert may_hold(drive.ledger["1.2"])
    first_key = send.deliveries[0].idempotency_key
    drive.seconds += 60
    assert drive.send_all() == [first_key]
    assert drive.ledger["1.2"].rejected is None


def test_a_failover_leaves_what_was_in_flight_to_the_sweep() -> None:
    """The other server doesn't hold the study, and the index may."""
    drive = Drive(Policy("c", deletes=True))
    drive.core.intake.take(row(7), drive.now, streamed=True)
    drive.look_up()
    (send,) = drive.take()
    drive.core.intake.restart_stream(Position("bin.1", 4), Identity("another", "pacsdb"))
    drive.answer(send, LOST)
    drive.write()
    assert drive.at_rest()
    found = compare(drive.policy, [], drive.ledger, scope_pk=0)
    assert [entry.study_iuid for entry in found.gone] == ["1.2"]


@pytest.mark.parametrize("updates", [True, False])
def test_a_doubtful_study_differs_though_its_digest_is_the_same(updates: bool) -> None:
    """A deletion that was never answered may have taken away what an index gets only once."""
    policy = Policy("c", updates=updates)
    document = study_document(study(), "c")
    doubtful = Entry("1.2", 5, version=3, digest=document.digest, rejected=DOUBT)
    assert compare(policy, [study()], {"1.2": doubtful}, scope_pk=0).stale == [("1.2", 5)]
    assert decide(policy, doubtful, Seen(document), Hints(look=True))[0] is Do.SEND


def test_a_row_that_until_has_passed_is_not_taken_from_the_table() -> None:
    drive = Drive(until=NOON)
    assert not drive.core.intake.take(row(7, at=NOON), drive.now)
    # From the log it is, whatever it says of the time: clocks go back.
    assert drive.core.intake.take(row(8, at=NOON), drive.now, streamed=True)


def test_a_page_does_not_claim_rows_that_until_has_passed() -> None:
    drive = Drive(until=NOON)
    old, young = (7, NOON), (8, NOON + timedelta(seconds=1))
    drive.seconds += 2
    version = drive.core.looks.draw(drive.now)
    assert version is not None
    job = Backfill("initial", "run", {})
    reading = drive.core.backfills.offer(job, [study()], {5: [old, young]}, version, 0, drive.now)
    assert reading is not None
    assert reading.row_ids == [8]


def test_already_sent_adopts_a_study_whose_rows_until_has_passed() -> None:
    drive = Drive(until=NOON)
    job = Backfill("initial", "run", {})
    assert drive.core.backfills.adopt(study(), [(7, NOON)], 9, job)
    waits = [(8, NOON + timedelta(seconds=1))]
    assert not drive.core.backfills.adopt(study("1.3", 6), waits, 9, job)


def test_a_study_on_two_pages_of_a_patient_ends_the_change_once() -> None:
    drive = Drive()
    change = OutboxRow(7, "patient", NOON, {"patient_pk": 1, "study_pk": 0})
    drive.core.intake.take(change, drive.now, streamed=True)
    backfills = drive.core.backfills
    for page_of in ([study(pk=5)], [study(pk=9)], []):
        page = backfills.begin_page(drive.now)
        assert page is not None
        backfills.end_page(page, page_of, drive.now, limit=1, epoch=page.epoch)
    drive.read(study(pk=9))
    drive.send_all()
    assert drive.core.parts.progress.is_settled(7)
    assert drive.at_rest()


@pytest.mark.parametrize("taken_before", [True, False])
def test_a_row_of_before_the_ledger_began_is_not_sent_as_recorded(taken_before: bool) -> None:
    """What the index was told before, something newer perhaps, the new ledger doesn't say."""
    drive = Drive()
    if taken_before:
        drive.core.intake.take(row(7), drive.now, streamed=True)
    drive.seconds += 1
    drive.core.backfills.begin_ledger(drive.now)
    if not taken_before:
        drive.core.intake.take(row(7), drive.now, streamed=True)
    drive.look_up()
    assert not drive.take()
    drive.core.intake.take(
        row(8, at=NOON + timedelta(seconds=2), study_pk=6, study_iuid="1.6"), drive.now, streamed=True
    )
    drive.look_up()
    assert [send.deliveries[0].study_pk for send in drive.take()] == [6], "a row of after it goes at once"


def test_a_backfill_closes_what_the_old_ledger_had_parked() -> None:
    drive = Drive()
    drive.core.backfills.begin_ledger(drive.now)
    drive.core.backfills.hint("1.2", 5, drive.now, backfill=Backfill("initial", "run", {}))
    drive.seconds += 6
    drive.read(study())
    (send,) = drive.take()
    drive.answer(send)
    assert drive.write().parking == {"1.2": Closing("1.2", State.SUPERSEDED)}


@pytest.mark.parametrize("deletes", [True, False])
@pytest.mark.parametrize("sent_since", [True, False])
def test_a_deletion_closes_what_the_old_ledger_had_parked(deletes: bool, sent_since: bool) -> None:
    """`initial --restart` doesn't come by any more."""
    drive = Drive(Policy("c", deletes=deletes))
    drive.core.backfills.begin_ledger(drive.now)
    if sent_since:
        drive.core.intake.take(row(7), drive.now, streamed=True)
        drive.look_up()
        drive.send_all()
    drive.core.intake.take(row(8, "deleted"), drive.now, streamed=True)
    drive.seconds += 6
    drive.read()
    drive.send_all()
    drive.write()
    assert any(changes.parking == {"1.2": Closing("1.2", State.SUPERSEDED)} for changes in drive.written)
    assert drive.at_rest()


def test_a_retry_is_looked_at_once_and_closes() -> None:
    drive = Drive()
    drive.ledger["1.2"] = Entry("1.2", 5, rejected=study_document(study(), "c").digest)
    drive.core.backfills.hint("1.2", 5, drive.now, insist=Insist.RETRY)
    assert drive.read(study()) == 1
    (send,) = drive.take()
    drive.answer(send)
    assert drive.write().parking == {"1.2": Closing("1.2", State.ACCEPTED)}
    assert drive.at_rest()


@pytest.mark.parametrize(("hours", "as_recorded"), [(23, True), (25, False)])
def test_a_row_older_than_a_day_is_never_sent_as_recorded(hours: int, as_recorded: bool) -> None:
    """A restored outbox: much may have happened since. The study is read, and that goes out."""
    drive = Drive()
    drive.core.intake.take(row(7, at=NOON - timedelta(hours=hours), study_description="old"), drive.now)
    drive.look_up()
    assert bool(drive.send_all()) == as_recorded
    drive.seconds += 6
    drive.read(study(text="new"))
    assert len(drive.send_all()) == 1
    drive.write()
    assert drive.ledger["1.2"].digest == study_document(study(text="new"), "c").digest
    assert drive.at_rest()


def test_a_rejected_document_is_sent_again_under_its_key() -> None:
    """The index may have kept it all the same; what it was made of isn't in the ledger. Another document has another key."""
    drive = Drive(Policy("c", updates=False))
    drive.core.intake.take(row(6, study_iuid="1.1", study_pk=4), drive.now, streamed=True)
    drive.look_up()
    assert len(drive.send_all()) == 1
    drive.core.intake.take(row(7), drive.now, streamed=True)
    drive.look_up()
    (send,) = drive.take()
    first = send.deliveries[0].idempotency_key
    drive.answer(send, Outcome(Kind.REJECTED, 422, reason="no"))
    (parking,) = drive.write().parking.values()
    assert isinstance(parking, Parking)
    for text, same in (("a", True), ("b", False)):
        drive.core.backfills.hint("1.2", 5, drive.now, insist=Insist.RETRY, seed=parking.idempotency_key)
        assert drive.read(study(text=text)) == 1
        (send,) = drive.take()
        assert (send.deliveries[0].idempotency_key == first) == same
        drive.answer(send, Outcome(Kind.REJECTED, 422, reason="no"))
        drive.write()


def test_a_newer_version_at_the_index_frees_the_slot() -> None:
    """Nothing is to be written for it, so nobody wrote, and the slot was never free again."""
    drive = Drive()
    drive.core.intake.take(row(7), drive.now, streamed=True)
    drive.look_up()
    (send,) = drive.take()
    drive.write()
    drive.answer(send, Outcome(Kind.STALE, 409, version=drive.now.clock + 5))
    assert drive.core.parts.results.pending
    drive.write()
    assert drive.core.parts.order.active == 0


@pytest.mark.parametrize("deletes", [True, False])
def test_what_the_index_has_newer_and_the_view_lacks_is_deleted_there(deletes: bool) -> None:
    drive = Drive(Policy("c", deletes=deletes))
    drive.core.intake.take(row(7), drive.now, streamed=True)
    drive.look_up()
    drive.send_all()
    drive.core.intake.take(row(8, "changed"), drive.now, streamed=True)
    drive.seconds += 6
    drive.write()
    assert drive.read(study(text="b")) == 1
    (send,) = drive.take()
    drive.answer(send, Outcome(Kind.STALE, 409, version=drive.now.clock + 5))
    drive.write()
    # By its primary key, and by its UID.
    assert [drive.read(), drive.read()] == [1, 1]
    assert [send.deliveries[0].body for send in drive.take()] == [None] * deletes


def test_an_index_that_does_not_say_which_version_it_has_is_told_of_at_the_third_time() -> None:
    drive = Drive()
    drive.core.intake.take(row(7), drive.now, streamed=True)
    drive.look_up()
    versions = []
    for number in range(1, 5):
        (send,) = drive.take()
        versions.append(send.deliveries[0].version)
        drive.answer(send, Outcome(Kind.STALE, 409))
        drive.write()
        assert drive.core.looks.puzzling == ([5] if number >= 3 else [])
        assert drive.read(study()) == 0
        drive.seconds += 2.0**number
        assert drive.read(study()) == 1
    assert sorted(set(versions)) == versions


def test_a_row_that_is_dated_in_the_future_does_not_carry_the_versions_away() -> None:
    """It was written by hand, perhaps: what came after it would be as far ahead, for good."""
    drive = Drive()
    drive.core.intake.take(row(7, at=NOON + timedelta(days=40_000)), drive.now, streamed=True)
    drive.look_up()
    (send,) = drive.take()
    assert send.deliveries[0].version == microseconds(NOON)


def test_a_clock_does_not_follow_a_version_a_hundred_years_ahead() -> None:
    clock = VersionClock(MAX_VERSION)
    clock.last = 0
    assert clock.draw(1000) == 1000
    clock.saw(1000 + FAR_AHEAD + 1)
    assert clock.draw(1000) == 1001
    clock.saw(1000 + FAR_AHEAD)
    assert clock.draw(1000) == 1001 + FAR_AHEAD


def test_a_page_does_not_go_out_after_what_was_read_later() -> None:
    """The other reading drew its version first, and read last."""
    drive = Drive()
    drive.core.backfills.hint("1.2", 5, drive.now, insist=Insist.RESEND, seed="s")
    reading = drive.begin()
    version = drive.core.looks.draw(drive.now)
    assert reading is not None
    assert version is not None
    drive.core.looks.end(reading, Found(reading.epoch, {5: study(text="newer")}), drive.now)
    assert len(drive.send_all()) == 1
    assert drive.at_rest()
    page = drive.core.backfills.offer(Backfill("initial", "r", {}), [study()], {}, version, 0, drive.now)
    assert page is not None
    assert not page.leases
    drive.read(study(text="newer"))
    assert not drive.send_all()
    drive.write()
    assert drive.at_rest()


def test_a_row_of_an_earlier_life_that_comes_last_hides_nothing() -> None:
    """Its primary key is that of no study any more; the study is there under another."""
    drive = Drive()
    drive.core.intake.take(row(8, "changed", NOON + timedelta(seconds=1)), drive.now, streamed=True)
    drive.core.intake.take(row(7, study_pk=4), drive.now)
    drive.seconds += 6
    for _ in range(2):
        drive.read(study(text="newest"))
    assert len(drive.send_all()) == 1
    assert drive.ledger["1.2"].digest == study_document(study(text="newest"), "c").digest
    assert drive.at_rest()


def test_asking_for_a_study_that_is_gone_leaves_it_doubtful() -> None:
    drive = Drive(Policy("c", deletes=True))
    drive.ledger["1.2"] = Entry("1.2", 5, rejected=DOUBT)
    drive.core.backfills.hint("1.2", 5, drive.now, insist=Insist.RESEND, seed="s")
    drive.read()
    drive.read()
    drive.write()
    assert drive.at_rest()
    assert drive.ledger["1.2"].rejected == DOUBT


def test_rows_are_forgotten_as_soon_as_another_server_may_answer() -> None:
    """The verifier meets it before the stream does: that a row isn't in its table says nothing."""
    drive = Drive()
    drive.core.parts.enter(1)
    drive.core.intake.take(row(7, "changed"), drive.now, streamed=True)
    drive.seconds += 6
    drive.core.parts.enter(2)
    assert drive.read() == 0
    assert drive.at_rest()
    assert not drive.core.parts.progress.known(7)
    drive.core.intake.restart_stream(Position("bin.1", 4), Identity("another", "pacsdb"), epoch=2)
    assert drive.core.intake.take(row(7, "changed"), drive.now, streamed=True)
    drive.seconds += 6
    assert drive.read(study()) == 1


@pytest.mark.parametrize("operation", ["changed", "deleted"])
def test_a_row_that_the_stream_brings_again_while_an_old_reading_has_it_is_not_forgotten(
    operation: str,
) -> None:
    """Its transaction waits for it, and the position for its transaction."""
    drive = Drive(Policy("c", deletes=True))
    core, end = drive.core, Position("bin.1", 104)
    core.intake.restart_stream(Position("bin.1", 4), epoch=1)
    core.intake.take(row(7, operation), drive.now, streamed=True)
    drive.seconds += 6
    reading = drive.begin()
    assert reading is not None
    core.intake.restart_stream(Position("bin.1", 4), epoch=2)
    assert not core.intake.take(row(7, operation), drive.now, streamed=True)
    core.intake.end_transaction(end)
    core.looks.give_back(reading, drive.now)
    assert core.parts.progress.position != end
    drive.seconds += 6
    # A deletion is looked for by its UID, which the view doesn't have either.
    assert drive.read(*([study()] if operation == "changed" else [])) == 1
    assert len(drive.send_all()) == 1
    assert core.parts.progress.position == end
    assert drive.at_rest()


def test_another_server_s_change_of_a_patient_does_not_end_the_one_of_now() -> None:
    drive = Drive()
    row_of_patient = OutboxRow(7, "patient", NOON, {"patient_pk": 1, "study_pk": 0})
    for server in ("s", "another"):
        drive.core.intake.restart_stream(Position("bin.1", 4), Identity(server, "pacsdb"))
        drive.core.intake.take(row_of_patient, drive.now, streamed=True)
        page = drive.core.backfills.begin_page(drive.now)
        assert page is not None
        drive.core.backfills.end_page(page, [study()], drive.now, limit=9, epoch=page.epoch)
        if server == "s":
            reading = drive.begin()
            assert reading is not None
            drive.core.looks.end(reading, Found(reading.epoch, {5: study()}), drive.now)
            (send,) = drive.take()
    drive.answer(send)
    drive.write()
    assert not drive.core.parts.progress.is_settled(7)
    drive.read(study())
    drive.write()
    assert drive.core.parts.progress.is_settled(7)
    assert drive.at_rest()


@pytest.mark.parametrize("hint", ["a row", "a patient's change", "not read back", "a sweep"])
def test_what_comes_while_the_index_may_have_lost_something_is_sent(hint: str) -> None:
    """An equal digest says nothing then: what the ledger has may be lost, and a pass leaves alone what is under way."""
    document = study_document(study(), "c")
    entry = Entry("1.2", 5, version=7, digest=document.digest, unverified=hint == "not read back")
    hints = {
        "a row": Hints(rows=((1, NOON),), live=True),
        "a patient's change": Hints(changes=(PatientChange(1, NOON, 1),)),
        "not read back": Hints(),
        "a sweep": Hints(look=True),
    }[hint]
    for believed in (True, False):
        do, _ = decide(Policy("c"), entry, Seen(document), hints, believed=believed)
        assert do is (Do.NOTHING if believed or hint == "a sweep" else Do.SEND)
    # Where only one version of a study goes, the pass alone decides.
    assert decide(Policy("c", updates=False), entry, Seen(document), hints, believed=False)[0] is Do.NOTHING


def test_a_change_that_went_back_is_sent_while_the_index_may_have_lost_the_study() -> None:
    drive = Drive()
    drive.core.intake.take(row(1), drive.now)
    drive.look_up()
    assert len(drive.send_all()) == 1
    drive.seconds = 10
    assert drive.read(study())
    assert not drive.send_all()
    drive.core.doubt()
    drive.core.intake.take(row(2, "changed", NOON + timedelta(seconds=11)), drive.now)
    drive.seconds = 30
    assert drive.read(study())
    assert len(drive.send_all()) == 1
    assert drive.at_rest()


@pytest.mark.parametrize("deleted", [False, True])
def test_what_is_under_way_when_the_ledger_is_believed_again_is_sent_once_more(deleted: bool) -> None:
    """The pass leaves it out, and the index may have lost it."""
    drive = Drive(Policy("c", deletes=True))
    drive.core.intake.take(row(1), drive.now)
    drive.look_up()
    assert len(drive.send_all()) == 1
    studies = [study()]
    drive.seconds += 10
    if deleted:
        drive.read(*studies)
        studies.clear()
        drive.core.intake.take(row(2, "deleted"), drive.now)
        drive.read()
        (send,) = drive.take()
        drive.answer(send)
    drive.core.doubt()
    drive.core.believe(drive.now)
    # What hasn't been sent yet isn't sent twice.
    drive.core.intake.take(row(3, study_pk=6, study_iuid="1.6"), drive.now)
    drive.core.believe(drive.now)
    drive.write()
    drive.look_up()
    assert len(drive.send_all()) == 1
    drive.seconds += 10
    assert drive.read(*studies, study("1.6", 6)) == 2
    # What isn't there under its primary key is looked for by its UID.
    drive.read(*studies)
    assert len(drive.send_all()) == 1
    drive.write()
    assert drive.at_rest()


def test_what_is_under_way_when_the_index_lacks_it_is_asked_for_again() -> None:
    drive = Drive()
    drive.core.intake.take(row(1), drive.now)
    drive.look_up()
    drive.send_all()
    unproven = drive.core.parts.settlement.unproven
    one = unproven.take()["1.2"]
    assert not drive.core.lost("1.2", one), "it is still compared with the view"
    assert "1.2" in unproven
    assert not drive.core.lost("1.2", one), "it was accepted once more"
    drive.seconds += 10
    drive.read(study())
    drive.write()
    one = unproven.take()["1.2"]
    assert drive.core.lost("1.2", one)


def test_what_was_accepted_since_tells_an_index_that_went_back() -> None:
    a, b = b"a" * 16, b"b" * 16
    unproven = Unproven()
    unproven.accepted("1.1", 5, None, a)
    unproven.accepted("1.1", 5, a, b)
    taken = unproven.take()
    assert "1.1" not in unproven
    one = taken["1.1"]
    assert (one.before, one.now) == ((None, a), b)
    assert not shows_loss(one, b)
    assert shows_loss(one, a)
    assert shows_loss(one, None)
    # An index that keeps it otherwise than it was sent has lost nothing.
    assert not shows_loss(one, b"c" * 16)
    # A deletion that is lost.
    assert shows_loss(Accepted(5, (b,), None), b)
    assert not shows_loss(Accepted(5, (b,), None), None)
    # No answer: they are still to be seen, behind what came since.
    unproven.accepted("1.1", 5, b, a)
    unproven.give_back(taken.items())
    one = unproven.take()["1.1"]
    assert (one.before, one.now) == ((None, a, b), a)


def test_what_was_accepted_since_has_its_bounds() -> None:
    unproven = Unproven()
    for number in range(10 * MANY):
        unproven.accepted(f"1.{number}", number, None, b"a" * 16)
        assert unproven.many == (len(unproven.study_pks) >= MANY)
        assert len(unproven.study_pks) <= 2 * MANY
    # What is lost is a span of time: some of each are left.
    assert all(any(low <= pk < low + 200 for pk in unproven.study_pks) for low in range(0, 10 * MANY, 200))

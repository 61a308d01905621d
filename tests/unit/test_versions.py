"""Which version goes at once and which waits, with a clock that the test turns."""

from __future__ import annotations

import threading
import time
from datetime import datetime

import pytest

from cdc_indexer.flow.patients import PatientChange
from cdc_indexer.flow.versions import MAX_WAIT_SECONDS, Versions
from cdc_indexer.model.errors import Stopped

WHEN = datetime(2026, 3, 1)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def versions(clock: Clock) -> Versions:
    return Versions(5.0, clock=clock)


def test_the_first_version_goes_at_once_and_the_next_waits_for_it(versions: Versions, clock: Clock) -> None:
    assert versions.begin("1.2", 1)
    assert not versions.begin("1.2", 1)
    versions.add("1.2", 1, (11, WHEN))
    clock.now += 1000
    assert versions.due(10) == []  # two versions of one study are never under way together
    versions.done("1.2", digest=7, verify_ids=(10,))
    (waiting,) = versions.due(10)
    assert (waiting.rows, waiting.verify_ids, waiting.digest) == ([(11, WHEN)], (10,), 7)
    versions.done("1.2", digest=8)
    assert len(versions) == 0


def test_a_first_version_is_verified_when_the_study_is_quiet(versions: Versions, clock: Clock) -> None:
    versions.begin("1.2", 1)
    clock.now += 1
    versions.done("1.2", digest=7, verify_ids=(10,))
    clock.now += 3.9
    assert versions.due(10) == []
    clock.now += 0.2
    assert versions.due(10)[0].verify_ids == (10,)


def test_a_growing_study_waits_for_quiet_but_not_for_ever(versions: Versions, clock: Clock) -> None:
    sent_at = []
    start = clock.now
    for image in range(3000):  # 50 images a second for a minute
        clock.now = start + image / 50
        versions.add("1.2", 1, (image, WHEN))
        for waiting in versions.due(10):
            sent_at.append(clock.now - start)
            versions.done(waiting.key, digest=image)
    clock.now += 5.1
    (last,) = versions.due(10)
    assert last.rows[-1] == (2999, WHEN)
    assert len(sent_at) <= 1
    clock.now = start
    for second in range(0, 200, 2):
        clock.now = start + second
        versions.add("1.3", 3, (second, WHEN))
        for _ in versions.due(10):
            assert clock.now - start >= MAX_WAIT_SECONDS
            return
    pytest.fail("a study that is never quiet was never sent")


def test_a_busy_study_leaves_one_entry_in_the_queue(versions: Versions) -> None:
    for image in range(3000):
        versions.add("1.2", 1, (image, WHEN))
    assert len(versions._heap) == 1


def test_too_many_waiting_sends_the_oldest_early_and_blocks_who_brings_more(clock: Clock) -> None:
    versions = Versions(5.0, max_studies=3, clock=clock)
    for pk in range(3):
        versions.add(f"1.{pk}", pk, (pk, WHEN))
    assert versions.full
    brought = threading.Event()

    def bring() -> None:
        versions.add("1.9", 9, (9, WHEN))
        brought.set()

    thread = threading.Thread(target=bring)
    thread.start()
    assert not brought.wait(0.1)
    (oldest,) = versions.due(1)
    assert oldest.key == "1.0"
    assert brought.wait(5)
    thread.join()


def test_too_many_waiting_make_room_for_many(clock: Clock) -> None:
    """One at a time, whoever brings more would wait for the verifier's next round after each study."""
    versions = Versions(5.0, max_studies=300, clock=clock)
    for pk in range(300):
        versions.add(f"1.{pk}", pk, (pk, WHEN))
    assert [waiting.study_pk for waiting in versions.due(200)] == list(range(200))
    assert not versions.full
    assert versions.due(200) == []


def test_stop_frees_who_waits_for_room(clock: Clock) -> None:
    versions = Versions(5.0, max_rows=1, clock=clock)
    versions.add("1.0", 1, (1, WHEN))
    versions.stop()
    with pytest.raises(Stopped):
        versions.add("1.1", 2, (2, WHEN))


def test_first_versions_wait_for_room_too(clock: Clock) -> None:
    """Each of them stays until it is verified: memory is flat only if who is quicker than the verifier waits for it."""
    versions = Versions(5.0, max_studies=1, clock=clock)
    assert versions.begin("1.0", 1)
    versions.done("1.0", digest=7, verify_ids=(10,))
    assert versions.begin("1.1", 2, block=False)
    begun = threading.Event()

    def begin() -> None:
        versions.begin("1.2", 3)
        begun.set()

    thread = threading.Thread(target=begin)
    thread.start()
    assert not begun.wait(0.1)
    assert [waiting.key for waiting in versions.due(10)] == ["1.0"]
    assert begun.wait(5)
    thread.join()


def test_hurry_waits_for_nothing(versions: Versions) -> None:
    versions.add("1.2", 1, (1, WHEN))
    assert versions.due(10) == []
    versions.hurry()
    assert len(versions.due(10)) == 1


def test_a_deletion_is_due_at_once_and_a_later_row_takes_it_back(versions: Versions) -> None:
    versions.add("1.2", 1, (1, WHEN))
    versions.add("1.2", 1, (2, WHEN), deleted=True)
    (waiting,) = versions.due(10)
    assert waiting.deleted
    assert [row for row, _ in waiting.rows] == [1, 2]
    versions.add("1.2", 1, (3, WHEN), deleted=True)
    versions.add("1.2", 2, (4, WHEN))  # stored again under the same UID
    versions.done("1.2", digest=None)
    assert versions.due(10) == []


def test_what_says_nothing_of_a_deletion_does_not_take_it_back(versions: Versions) -> None:
    """A patient's change whose studies were read just before one of them was deleted: the deletion would be lost."""
    versions.add("1.2", 1, (1, WHEN), deleted=True)
    versions.add("1.2", 1, patient=PatientChange(2, WHEN, 7), deleted=None, soon=True)
    (waiting,) = versions.due(10)
    assert waiting.deleted


def test_what_a_restart_restores_waits_for_the_rows_that_were_not_settled(
    versions: Versions, clock: Clock
) -> None:
    """Else the same values would go twice: once to verify the first version, once for the later row."""
    for uid, row_id in (("1.2", 10), ("1.3", 20)):
        versions.restore(uid, row_id, row_id, 7)
        versions.restore(uid, row_id, row_id, 7)  # the table couldn't be read, and it is done again
    clock.now += 1000
    assert versions.due(10) == []
    versions.add("1.2", 10, (11, WHEN))
    versions.release_restored()
    (alone,) = versions.due(10)
    assert (alone.key, alone.rows, alone.verify_ids) == ("1.3", (), (20,))
    clock.now += 5
    (joined,) = versions.due(10)
    assert (joined.key, joined.rows, joined.verify_ids, joined.digest) == ("1.2", [(11, WHEN)], (10,), 7)


def test_too_many_restored_ones_do_not_wait(clock: Clock) -> None:
    versions = Versions(5.0, max_studies=2, clock=clock)
    versions.restore("1.2", 1, 10, 7)
    assert versions.due(10) == []
    versions.restore("1.3", 2, 20, 7)
    assert versions.due(10) != []


@pytest.mark.parametrize(("at_index", "known"), [(True, 7), (False, None)])
def test_a_row_that_comes_after_its_values_were_sent_is_known_by_them(
    versions: Versions, at_index: bool, known: int | None
) -> None:
    versions.add("1.2", 1, (10, WHEN), soon=True)
    versions.due(10)
    versions.done("1.2", digest=7, at_index=at_index)
    assert len(versions) == 0
    versions.add("1.2", 1, (11, WHEN), soon=True)
    assert versions.due(10)[0].digest == known
    # Nothing differs, and that is remembered as well.
    versions.done("1.2", digest=known)
    versions.add("1.2", 1, (12, WHEN), soon=True)
    assert versions.due(10)[0].digest == known


def test_what_the_index_rejected_is_not_known_after_its_verification(versions: Versions) -> None:
    versions.begin("1.2", 1)
    versions.done("1.2", digest=7, verify_ids=(10,), at_index=False)
    versions.hurry()
    (verified,) = versions.due(10)
    versions.done("1.2", digest=verified.digest)
    versions.add("1.2", 1, (12, WHEN), soon=True)
    assert versions.due(10)[0].digest is None


def test_a_first_row_that_comes_after_newer_values_is_not_sent_as_it_was_recorded(versions: Versions) -> None:
    """A renamed patient's study is read from the view, which is ahead of the log: its own first row comes later."""
    versions.add("1.2", 1, patient=PatientChange(5, WHEN, 3), soon=True)
    versions.due(10)
    versions.done("1.2", digest=7, at_index=True)
    assert not versions.begin("1.2", 1, as_recorded=True)
    versions.add("1.2", 1, (10, WHEN), soon=True)
    assert versions.due(10)[0].digest == 7
    versions.done("1.2", digest=7, at_index=True)
    assert versions.begin("1.2", 1)


def test_at_the_end_only_those_are_asked_for_of_which_it_is_known_what_was_sent(versions: Versions) -> None:
    versions.begin("1.1", 1)
    versions.add("1.1", 1, (11, WHEN))
    versions.add("1.2", 2, (12, WHEN))
    assert versions.known() == []  # one is being sent, of the other nothing is known
    versions.done("1.1", digest=7)
    (known,) = versions.known()
    assert (known.key, known.rows, known.digest) == ("1.1", [(11, WHEN)], 7)
    assert versions.known() == []


def test_who_is_woken_before_it_waits_does_not_wait(versions: Versions) -> None:
    versions.wake()
    began = time.monotonic()
    versions.wait(30)
    assert time.monotonic() - began < 10
    versions.wait(0.01)

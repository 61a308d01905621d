"""`send: stable` with the archive's own timing: one POST for a study, once it is quiet and its images are counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.indexer import Indexer, wait_until
from tests.pacs import Pacs
from tests.receiver import Receiver

pytestmark = pytest.mark.one_server

#: What is no test's own matter: the archive's columns that are sent.
COUNTS = ("study_series", "study_instances", "study_modality")


@pytest.fixture
def indexer(pacs: Pacs, receiver: Receiver, tmp_path: Path) -> Iterator[Indexer]:
    one = Indexer(tmp_path / "indexer", pacs, receiver.url)
    yield one
    one.close()


def deliver(indexer: Indexer, **delivery: object) -> None:
    indexer.settings["delivery"] = {"send": "stable", "updates": False, **delivery}
    indexer.write_files()


def counts_of(receiver: Receiver) -> dict[str, list[tuple[object, ...]]]:
    """What was sent of each study, in order."""
    found: dict[str, list[tuple[object, ...]]] = {}
    for entry in receiver.accepted():
        found.setdefault(entry.json["study_iuid"], []).append(tuple(entry.json[name] for name in COUNTS))
    return found


def touch(pacs: Pacs, pk: int) -> None:
    """An image comes: DCM4CHEE 2.x inserts it, and leaves the study's row alone."""
    ((series_pk,),) = pacs.execute("SELECT MAX(pk) FROM series WHERE study_fk = %s", (pk,))
    pacs._insert_instance(series_pk)


def play(scenes: list[tuple[float, Callable[[], object]]]) -> None:
    """Does each thing at its second."""
    began = time.monotonic()
    for second, act in sorted(scenes, key=lambda scene: scene[0]):
        time.sleep(max(0.0, began + second - time.monotonic()))
        act()


@pytest.mark.parametrize(
    "settle_seconds", [5, pytest.param(None, marks=[pytest.mark.soak, pytest.mark.timeout(600)])]
)
def test_the_archives_own_timing(
    pacs: Pacs, receiver: Receiver, indexer: Indexer, settle_seconds: float | None
) -> None:
    """As DCM4CHEE 2.18 stores and counts; and a study that grows for longer than a minute."""
    deliver(indexer, **({} if settle_seconds is None else {"settle_seconds": settle_seconds}))
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        one, late, growing = (pacs.store_study(uid) for uid in ("1.1", "1.2", "1.3"))
        scenes: list[tuple[float, Callable[[], object]]] = []
        # The images of one association over 20 s, and their counts when it ends.
        scenes += [(second, lambda: touch(pacs, one)) for second in range(1, 20)]
        scenes += [(20, lambda: pacs.update_counts(one, 1, 20, "CT"))]
        # An association that is broken off: a job of the archive counts, about a minute later.
        scenes += [(second, lambda: touch(pacs, late)) for second in range(1, 5)]
        scenes += [(70, lambda: pacs.update_counts(late, 1, 5, "MR"))]
        # Counted image by image, for longer than a minute.
        scenes += [(second, lambda: pacs.store_image(growing)) for second in range(3, 76, 3)]
        wanted = {"1.1": [(1, 20, "CT")], "1.2": [(1, 5, "MR")], "1.3": [(26, 26, "CT")]}
        if settle_seconds is None:
            # A second series after the first was counted: nothing is heard of it until it is counted as well.
            two = pacs.store_study("1.4")
            scenes += [(20, lambda: pacs.update_counts(two, 1, 20, "CT"))]
            scenes += [(second, lambda: touch(pacs, two)) for second in range(21, 40)]
            scenes += [(150, lambda: pacs.update_counts(two, 2, 40, "CT\\SR"))]
            wanted["1.4"] = [(2, 40, "CT\\SR")]
        play(scenes)
        wait_until(lambda: counts_of(receiver).keys() == wanted.keys(), 200, "every study")
        pacs.update_counts(one, 9, 999, "XX")
        pacs.store_study("1.5")
        time.sleep(2)
    assert counts_of(receiver) == wanted


@pytest.mark.parametrize(
    ("updates", "recorded_hours_ago", "goes_out"),
    [(False, 25, True), (False, 23, False), (True, 1, True)],
)
def test_what_is_never_counted(
    pacs: Pacs, receiver: Receiver, indexer: Indexer, updates: bool, recorded_hours_ago: float, goes_out: bool
) -> None:
    """Goes out as it is after a day, and that is said; where it may be sent again, at once."""
    deliver(indexer, updates=updates, settle_seconds=0.3)
    pacs.store_study("1.1")
    pacs.execute(
        "UPDATE study_service SET recorded_at = recorded_at - INTERVAL %s HOUR", (recorded_hours_ago,)
    )
    pacs.update_counts(pacs.store_study("1.2"), 1, 1, "CT")
    with indexer.running():
        wait_until(lambda: "1.2" in counts_of(receiver), what="the other study")
        if goes_out:
            wait_until(lambda: "1.1" in counts_of(receiver), what="the study without counts")
        else:
            time.sleep(3)
    assert ("1.1" in counts_of(receiver)) is goes_out
    assert ("hasn't counted its images within a day" in indexer.log) is (goes_out and not updates)


def test_cron_leaves_what_is_not_quiet_to_its_next_run(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    deliver(indexer, settle_seconds=10)
    pacs.update_counts(pacs.store_study("1.1"), 1, 7, "CT")
    time.sleep(10.5)
    pk = pacs.store_study("1.2")
    pacs.update_counts(pk, 1, 2, "CT")

    def cron() -> None:
        done = indexer.run("run", "--until-caught-up")
        assert done.returncode == 0, done.stderr

    cron()
    assert counts_of(receiver) == {"1.1": [(1, 7, "CT")]}
    status = indexer.run("status")
    assert status.returncode == 0, status.stdout
    assert "1 study waits until it is quiet" in status.stdout
    pacs.update_counts(pk, 3, 412, "CT\\SR")
    cron()
    assert counts_of(receiver).keys() == {"1.1"}
    time.sleep(10.5)
    cron()
    assert counts_of(receiver) == {"1.1": [(1, 7, "CT")], "1.2": [(3, 412, "CT\\SR")]}
    assert "waits until it is quiet" not in indexer.run("status").stdout
    # Nothing is left.
    cron()
    assert len(receiver.sent()) == 2


def test_a_backlog_that_is_quiet_goes_at_once(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    """After an outage nobody waits again for what was recorded long ago."""
    deliver(indexer)
    stored = pacs.store_studies(300)
    pacs.execute("UPDATE study_service SET recorded_at = recorded_at - INTERVAL 10 MINUTE")
    with indexer.running():
        wait_until(lambda: sorted(receiver.study_iuids()) == sorted(stored), 20, "the backlog")


@pytest.mark.parametrize("beside_run", [False, True])
def test_initial_leaves_to_run_what_is_not_stable(
    pacs: Pacs, receiver: Receiver, indexer: Indexer, beside_run: bool
) -> None:
    """The archive is at work while what it already holds is sent."""
    deliver(indexer, settle_seconds=6)
    held = pacs.store_studies(50)
    uncounted_for_ever = pacs.store_study("1.1")
    pacs.execute("DELETE FROM study_service")  # stored before there was a trigger
    counting = pacs.store_study("1.2")
    growing = pacs.store_study("1.3")
    pacs.update_counts(growing, 1, 5, "CT")
    if beside_run:
        indexer.start()
        wait_until(lambda: indexer.caught_up, what="caught up")
    assert indexer.run("initial").returncode == 0, indexer.log
    assert sorted(receiver.study_iuids()) == sorted([*held, "1.1"])
    pacs.update_counts(counting, 1, 60, "CT")
    pacs.update_counts(growing, 3, 80, "CT")
    pacs.update_counts(uncounted_for_ever, 1, 9, "CT")
    if not beside_run:
        indexer.start()
    wait_until(lambda: len(receiver.accepted()) == 53, what="the other two")
    time.sleep(1)
    assert indexer.stop() == 0
    found = counts_of(receiver)
    assert (found["1.2"], found["1.3"]) == ([(1, 60, "CT")], [(3, 80, "CT")])
    assert len(receiver.accepted()) == 53

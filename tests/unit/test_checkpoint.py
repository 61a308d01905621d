"""The checkpoint file: whatever happens to it, a whole generation is found or a clear sentence is said."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdc_indexer.model.errors import CheckpointError, Stopped, StorageError
from cdc_indexer.model.position import Identity, Position
from cdc_indexer.model.settled import IntervalSet, Settled
from cdc_indexer.state.checkpoint import Checkpoint, CheckpointFile, CheckpointWriter

WHEN = datetime(2026, 3, 1, 12, 0, 0, 123456)


def example(number: int = 1) -> Checkpoint:
    settled = Settled(WHEN - timedelta(minutes=10))
    settled.add(2**63 + number, WHEN)
    return Checkpoint(
        identity=Identity("8a94f357-aab4-11df-86ab-c80aa9429562", "pacsdb"),
        center="000",
        position=Position("bin.000007", 4 + number, 1700000000, "0-1-17"),
        columns=(("id", "bigint", True), ("operation", "varchar", False)),
        settled=settled,
        unverified=IntervalSet([(2**63 + number, 2**63 + number)]),
        sent_pks=IntervalSet([(1, number)]),
        patients={17: (3, IntervalSet([(5, 6)]))},
        initial={"run": "x", "after_pk": 3},
    )


def assert_same(ours: Checkpoint, other: Checkpoint) -> None:
    def stripped(checkpoint: Checkpoint) -> object:
        return {**json.loads(checkpoint.render()), "time": None, "checksum": None}

    assert stripped(ours) == stripped(other)


positions = st.builds(
    Position,
    st.from_regex(r"[a-z\-]{1,20}\.\d{6}", fullmatch=True),
    st.integers(4, 2**40),
    st.none() | st.integers(0, 2**32),
    st.none() | st.text(max_size=30),
)


@given(
    positions | st.none(),
    st.text(max_size=10),
    st.lists(
        st.tuples(st.integers(0, 2**64 - 1), st.datetimes(datetime(1980, 1, 1), datetime(2100, 1, 1))),
        max_size=40,
    ),
)
def test_any_checkpoint_survives_its_file(
    position: Position | None, center: str, rows: list[tuple[int, datetime]]
) -> None:
    checkpoint = Checkpoint(identity=Identity("uuid", "db"), center=center, position=position)
    for row in rows:
        checkpoint.settled.add(*row)
    again = Checkpoint.parse(checkpoint.render())
    assert_same(again, checkpoint)
    assert again.position == position
    assert all(row_id in again.settled for row_id, _ in rows)


def test_the_first_format_is_still_read() -> None:
    """It had the ids as pairs: first and last."""
    checkpoint = example()
    document = json.loads(checkpoint.render())
    row_id = 2**63 + 1
    document["format"] = 1
    document["settled"]["minutes"] = {"2026-03-01T12:00": [[row_id, row_id]]}
    document["unverified"] = [[row_id, row_id]]
    document["sent_pks"] = [[1, 1]]
    del document["checksum"]
    body = json.dumps(document, indent=2).removesuffix("\n}")
    seal = hashlib.sha256(body.encode()).hexdigest()
    assert_same(Checkpoint.parse(f'{body},\n  "checksum": "sha256:{seal}"\n}}\n'), checkpoint)


def test_ids_drawn_in_turn_by_two_sessions_take_little_room() -> None:
    """While one's transaction of 5,000 rows is settled and the other's isn't, each of its ids is an interval of its own."""
    checkpoint = Checkpoint(identity=None, center="007")
    for number in range(0, 10_000, 2):
        checkpoint.settled.add(2**63 + number, WHEN)
        checkpoint.unverified.add(2**63 + number)
    text = checkpoint.render()
    assert len(text) < 64 * 1024
    assert_same(Checkpoint.parse(text), checkpoint)


@given(st.data())
def test_no_damage_goes_unnoticed(data: st.DataObject) -> None:
    text = example().render()
    place = data.draw(st.integers(0, len(text) - 5))
    damaged = (
        text[:place]
        + data.draw(st.sampled_from(["", "\x00", "x", text[place : place + 2] * 2]))
        + text[place + 1 :]
    )
    if damaged == text:
        return
    with pytest.raises(ValueError, match=r".+"):
        Checkpoint.parse(damaged)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.integers(0, 400))
def test_a_torn_file_falls_back_to_the_previous_generation(tmp_path: Path, length: int) -> None:
    file = CheckpointFile(tmp_path)
    file.save(example(1).render())
    file.save(example(2).render())
    file.path.write_text(example(2).render()[:length])
    checkpoint, warning = file.load()
    assert checkpoint is not None
    assert_same(checkpoint, example(1))
    assert warning is not None
    assert "checkpoint.previous.json is used" in warning


def test_a_torn_file_never_takes_the_place_of_the_good_one(tmp_path: Path) -> None:
    """Killed between the two renames, or torn a second time, there is still something to fall back to."""
    file = CheckpointFile(tmp_path)
    file.save(example(1).render())
    file.save(example(2).render())
    for number in (3, 4):
        file.path.write_text(example(number).render()[:-50])
        again = CheckpointFile(tmp_path)
        checkpoint, warning = again.load()
        assert checkpoint is not None
        assert warning is not None
        assert_same(checkpoint, example(1))
        again.save(example(number).render())
    assert_same(Checkpoint.parse(file.previous_path.read_text()), example(1))
    again.save(example(5).render())
    assert_same(Checkpoint.parse(file.previous_path.read_text()), example(4))


def test_the_newest_generation_is_used(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path)
    assert file.load() == (None, None)
    for number in (1, 2, 3):
        file.save(example(number).render())
        checkpoint, warning = file.load()
        assert checkpoint is not None
        assert_same(checkpoint, example(number))
        assert warning is None
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert_same(Checkpoint.parse(file.previous_path.read_text()), example(2))


@pytest.mark.parametrize("content", ["", "{}", "not json", '{"format": 1}', '{"position": {"file": "x"}}'])
def test_a_foreign_file_is_not_overwritten_silently(tmp_path: Path, content: str) -> None:
    file = CheckpointFile(tmp_path)
    file.path.write_text(content)
    with pytest.raises(CheckpointError, match=r"checkpoint\.json can't be used.*move the file away"):
        file.load()


def test_a_directory_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "missing")
    with pytest.raises(StorageError, match="can't be written"):
        file.save(example().render())


class Numbered:
    """Renders a growing generation, and can be told that the disk is full."""

    def __init__(self, path: Path) -> None:
        self.generation = 0
        self.file = CheckpointFile(path)
        self.full = threading.Event()
        self.writes = 0
        save = self.file.save

        def counted(text: str) -> None:
            self.writes += 1
            if self.full.is_set():
                raise StorageError("no space left")
            save(text)

        self.file.save = counted  # type: ignore[method-assign]

    def render(self) -> tuple[int, str]:
        return self.generation, example(max(1, self.generation)).render()


def test_many_results_share_one_write_and_none_returns_before_it_is_durable(tmp_path: Path) -> None:
    source = Numbered(tmp_path)
    writer = CheckpointWriter(source.file, source.render)
    writer.start()
    lock = threading.Lock()
    early = []

    def work() -> None:
        for _ in range(50):
            with lock:
                source.generation += 1
                mine = source.generation
            writer.wait(mine)
            durable = Checkpoint.parse(source.file.path.read_text()).position
            if durable is None or durable.offset - 4 < mine:
                early.append(mine)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert writer.close()
    assert early == []
    assert source.writes < 400


def test_a_full_disk_holds_who_waits_until_there_is_room(tmp_path: Path) -> None:
    troubles: list[StorageError | None] = []
    source = Numbered(tmp_path)
    source.full.set()
    writer = CheckpointWriter(source.file, source.render, troubles.append, retry_seconds=0.02)
    writer.start()
    source.generation = 1
    done = threading.Event()

    def wait() -> None:
        writer.wait(1)
        done.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not done.wait(0.1)
    source.full.clear()
    assert done.wait(5)
    thread.join()
    assert writer.close()
    assert len(troubles) == 2  # said once, and taken back once
    assert isinstance(troubles[0], StorageError)
    assert troubles[1] is None


def test_the_end_does_not_wait_for_a_full_disk(tmp_path: Path) -> None:
    source = Numbered(tmp_path)
    source.full.set()
    writer = CheckpointWriter(source.file, source.render, retry_seconds=60)
    writer.start()
    source.generation = 1
    writer.request(1)
    threading.Timer(0.1, writer.give_up).start()
    with pytest.raises(Stopped):
        writer.wait(1)
    assert not writer.close()


def test_who_asks_after_the_end_does_not_wait_for_ever(tmp_path: Path) -> None:
    """A signal in the first moments of `initial`: its worker asks when the writer has been closed already."""
    source = Numbered(tmp_path)
    writer = CheckpointWriter(source.file, source.render)
    writer.start()
    assert writer.close()
    outcome: list[str] = []

    def ask() -> None:
        try:
            writer.wait(1)
        except Stopped:
            outcome.append("stopped")

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(5)
    assert outcome == ["stopped"]


def test_there_is_a_newest_generation_at_every_moment(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path)
    file.save(example(1).render())
    stop = threading.Event()
    missing = []

    def look() -> None:
        while not stop.is_set():
            if not file.path.exists():
                missing.append(1)

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(1, 200):
        file.save(example(number).render())
    stop.set()
    thread.join()
    assert not missing


def test_content_before_name_and_name_before_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut keeps what was synced and may keep anything else: no kill of a process shows this."""
    happened: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename

    def watched_fsync(descriptor: int) -> None:
        happened.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        fsync(descriptor)

    def watched_rename(source: str, target: str) -> None:
        happened.append(("rename", Path(target).name))
        rename(source, target)

    file = CheckpointFile(tmp_path)
    file.save(Checkpoint(identity=None, center="007").render())
    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "rename", watched_rename)
    file.save(Checkpoint(identity=None, center="007").render())
    assert happened == [
        ("fsync", "checkpoint.new"),
        ("rename", "checkpoint.previous.json"),
        ("rename", "checkpoint.json"),
        ("fsync", tmp_path.name),
    ]


def test_every_field_comes_back(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path)
    file.save(example().render())
    read, _ = file.load()
    assert read is not None
    for name in (
        "identity",
        "center",
        "position",
        "columns",
        "unverified",
        "sent_pks",
        "patients",
        "initial",
    ):
        assert getattr(read, name) == getattr(example(), name), name

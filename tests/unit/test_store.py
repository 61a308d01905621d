"""The durable state: whole after any kill, refused in a sentence when it can't be trusted, never begun anew in silence."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from cdc_indexer.model.changes import Changes, Closing, Parking, State
from cdc_indexer.model.errors import FatalError, LedgerDamaged, StateError, Stopped, StorageError, SyncFailed
from cdc_indexer.model.ledger import Entry
from cdc_indexer.state import _database, _files
from cdc_indexer.state._database import PAGE_BYTES
from cdc_indexer.state.parked_studies import ParkedStudies
from cdc_indexer.state.store import LEDGER_DAMAGED, Store

POSITION = {"file": "bin.000007", "offset": 4711, "file_created": 1700000000, "gtid_set": "0-1-17"}


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def store(state_dir: Path) -> Iterator[Store]:
    one = Store(state_dir)
    yield one
    one.close()


def entry(number: int, version: int = 1) -> Entry:
    return Entry(f"1.2.{number}", number, version, bytes(16))


def parking(key: str = "1.2.3", body: bytes | None = b'{"patient_name": "PEREZ^JUAN"}') -> Parking:
    return Parking(key, 7, key, "post", f"key-{key}", (2**64 - 1,), body, 422, "rejected", "answer of PEREZ")


def example(number: int = 1) -> Changes:
    return Changes(
        meta={"position": {**POSITION, "offset": number}, "center": "Ñuñoa", "nothing": None},
        settled={"2026-03-01T12:00": f"[{number},3]", "2026-03-01T12:01": "[9,1]"},
        ledger={f"1.2.{number}": entry(number)},
        parking={f"9.{number}": parking(f"9.{number}")},
        jobs={"initial": {"after_pk": number}, "sweep": {"at": 3}},
    )


def reopened(store: Store, state_dir: Path) -> Store:
    store.close()
    return Store(state_dir)


def test_who_asks_for_the_ledger_when_the_program_has_ended_is_stopped(store: Store) -> None:
    """The thread that reads the table is waited for last. It isn't the disk that fails."""
    store.apply(example())
    store.close()
    for ask in (
        lambda: store.lookup(["1.2.1"]),
        lambda: store.unverified(0, 10),
        lambda: store.by_pk(0, None, 10),
    ):
        with pytest.raises(Stopped):
            ask()


def rewrite(state_dir: Path, change: Callable[[bytearray], None]) -> bytes:
    path = state_dir / "state.sqlite"
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)
    return bytes(content)


# What is written


def test_everything_comes_back(store: Store, state_dir: Path) -> None:
    assert store.created
    store.apply(example(1))
    store.apply(example(2))
    again = reopened(store, state_dir)
    try:
        loaded = again.load()
        assert not again.created
        assert loaded.meta == {"position": {**POSITION, "offset": 2}, "center": "Ñuñoa", "nothing": None}
        assert loaded.settled == {"2026-03-01T12:00": "[2,3]", "2026-03-01T12:01": "[9,1]"}
        assert loaded.jobs == {"initial": {"after_pk": 2}, "sweep": {"at": 3}}
        assert (loaded.parked, loaded.ledger) == (2, 2)
        assert again.lookup(["1.2.1", "1.2.3"]) == {"1.2.1": entry(1)}
        again.apply(Changes(settled={"2026-03-01T12:00": None}, jobs={"sweep": None}))
        assert again.load().settled == {"2026-03-01T12:01": "[9,1]"}
        assert again.load().jobs == {"initial": {"after_pk": 2}}
    finally:
        again.close()


def test_nothing_is_there_at_first(store: Store) -> None:
    loaded = store.load()
    assert (loaded.meta, loaded.settled, loaded.jobs, loaded.parked, loaded.ledger) == ({}, {}, {}, 0, 0)
    assert store.lookup(["1.2.3"]) == {}
    assert store.by_pk(-1, None, 10) == []
    assert store.unverified(-1, 10) == []
    store.apply(Changes())


def test_only_our_account_can_read_it(state_dir: Path) -> None:
    before = os.umask(0)
    try:
        store = Store(state_dir)
        store.apply(example())
        modes = {file.name: file.stat().st_mode & 0o777 for file in state_dir.iterdir()}
        store.close()
    finally:
        os.umask(before)
    assert set(modes) == {"state.sqlite", "state.sqlite-wal", "state.sqlite-shm"}
    assert set(modes.values()) == {0o600}
    assert state_dir.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_makes_belongs_to_the_services_account(state_dir: Path) -> None:
    state_dir.mkdir()
    os.chown(state_dir, 12345, 12346)
    store = Store(state_dir)
    store.apply(example())
    owners = {(file.stat().st_uid, file.stat().st_gid) for file in state_dir.iterdir()}
    store.close()
    assert owners == {(12345, 12346)}


def test_a_durable_step_is_synced_before_it_returns(store: Store) -> None:
    """A power cut keeps what was synced: no kill of a process shows this, the settings do."""
    for db in store._connections:
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
        assert db.execute("PRAGMA secure_delete").fetchone() == (1,)


APPLY_AND_DIE = """
import sys
from pathlib import Path
from tests.unit.test_store import example
from cdc_indexer.state.store import Store
store = Store(Path(sys.argv[1]))
for number in range(1, 100):
    store.apply(example(number))
    print(number, flush=True)
"""


@pytest.mark.parametrize(("failpoint", "extra"), [("before_commit", 0), ("after_commit", 1)])
@pytest.mark.parametrize("count", [1, 2, 17])
def test_killed_at_a_step_it_is_whole_or_not_at_all(
    state_dir: Path, failpoint: str, extra: int, count: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", APPLY_AND_DIE, str(state_dir)],
        env={**os.environ, "CDC_INDEXER_FAILPOINT": f"{failpoint}:{count}"},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    said = len(done.stdout.split())
    assert said == count - 1
    durable = said + extra
    store = Store(state_dir)
    try:
        loaded = store.load()
        assert (loaded.parked, loaded.ledger) == (durable, durable)
        assert loaded.meta.get("position", {}).get("offset") == (durable or None)
        assert set(store.lookup([f"1.2.{n}" for n in range(1, 101)])) == {
            f"1.2.{n}" for n in range(1, durable + 1)
        }
        store.apply(example(100))
    finally:
        store.close()


def test_killed_anywhere_what_was_said_to_be_durable_is(state_dir: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", APPLY_AND_DIE.replace("100", "100000"), str(state_dir)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for _ in range(40):
            last = process.stdout.readline()
        process.kill()
        last = ([last, *process.stdout])[-1]
    store = Store(state_dir)
    try:
        loaded = store.load()
        assert loaded.ledger in (int(last), int(last) + 1)
        assert loaded.meta["position"]["offset"] == loaded.ledger == loaded.parked
    finally:
        store.close()


def test_what_a_killed_process_left_in_the_log_is_on_the_disk_before_it_is_believed(state_dir: Path) -> None:
    """Killed before its sync a step may be in the kernel's memory only: read, acted upon, and gone with the power."""
    done = subprocess.run(
        [sys.executable, "-c", APPLY_AND_DIE, str(state_dir)],
        env={**os.environ, "CDC_INDEXER_FAILPOINT": "after_commit:5"},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    log = state_dir / "state.sqlite-wal"
    assert log.stat().st_size > 0
    store = Store(state_dir)
    try:
        # SQLite syncs the log before it moves it into the file.
        assert log.stat().st_size == 0
        assert store.load().ledger == 5
    finally:
        store.close()


@pytest.mark.parametrize("how", ["made", "rebuilt"])
def test_the_name_of_a_new_file_is_on_the_disk(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Without a sync of the directory a power cut may take the name, or bring the damaged file back."""
    if how == "rebuilt":
        before = Store(state_dir)
        before.apply(example())
        before.close()
        _database.mark_damaged(state_dir)
    done: list[str] = []
    rename, fsync = Path.rename, os.fsync

    def renamed(self: Path, target: Path) -> Path:
        done.append(f"rename {target.name}")
        return rename(self, target)

    def synced(descriptor: int) -> None:
        done.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", renamed)
        patch.setattr(os, "fsync", synced)
        store = Store(state_dir)
    store.close()
    assert store.rebuilt == (how == "rebuilt")
    place = done.index("rename state.sqlite")
    assert f"sync {state_dir.name}" in done[place:]


def test_killed_while_it_is_made_there_is_none_or_a_whole_one(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", dies)
        Store(state_dir)
    assert not (state_dir / "state.sqlite").exists()
    store = Store(state_dir)
    assert store.created
    store.apply(example())
    store.close()


# A disk that doesn't take it


def test_a_full_disk_leaves_nothing_half_written_and_heals(store: Store) -> None:
    """A limit on the database's size stands for the disk: SQLite answers both with the same error."""
    store.apply(example(1))
    ((pages,),) = store._db.execute("PRAGMA page_count")
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    large = example(2)
    large.ledger = {f"1.3.{n}": entry(n) for n in range(3000)}
    with pytest.raises(StorageError, match=r"full.*nothing more is sent until it can"):
        store.apply(large)
    assert store.count == 1
    assert store.load().meta["position"]["offset"] == 1
    assert store.lookup(["1.3.5"]) == {}
    store._db.execute("PRAGMA max_page_count = 1000000")
    large.ledger = {f"1.3.{n}": Entry(f"1.3.{n}", n + 5) for n in range(3000)}
    store.apply(large)
    assert store.load().ledger == store.count == 3001


LIMITED = """
import resource, signal, sys
from pathlib import Path
from tests.unit.test_store import example
from cdc_indexer.model.errors import StorageError
from cdc_indexer.state.store import Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = Store(Path(sys.argv[1]))
store.apply(example(1))
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
failed = 0
for number in range(2, 40):
    try:
        store.apply(example(number))
    except StorageError as error:
        failed += 1
        first = number if failed == 1 else first
assert failed, "no limit was met"
assert store.load().ledger == first - 1, (store.load().ledger, first)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
store.apply(example(first))
print(store.load().ledger == first)
"""


@pytest.mark.skipif(
    sys.version_info < (3, 11), reason="SQLite's error code isn't told, and the worst is taken for it"
)
def test_a_file_that_may_not_grow_is_said_and_heals(state_dir: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(state_dir)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.strip() == "True", done.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Two megabytes of its own, where this machine lets us mount them."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_disk_without_room_is_said_and_heals(small_disk: Path) -> None:
    store = Store(small_disk / "state")
    durable = 30
    for number in range(1, durable + 1):
        store.apply(example(number))
    filler = small_disk / "somebody-elses"
    with filler.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 512)
    with pytest.raises(StorageError, match="full"):
        for number in range(durable + 1, 500):
            store.apply(example(number))
            durable = number
    with pytest.raises(StorageError, match="full"):
        store.tidy()
    # As after a kill: what is in the log only can't be moved, and is read all the same.
    again = Store(small_disk / "state")
    assert (again.load().ledger, again.count) == (durable, durable)
    with pytest.raises(StorageError, match="full"):
        again.apply(example(durable + 1))
    filler.unlink()
    again.apply(example(durable + 1))
    again.tidy()
    assert again.load().ledger == durable + 1
    again.close()
    store.close()


@pytest.mark.parametrize("how", ["directory", "file", "replaced"])
def test_a_state_that_is_taken_away_is_missed(store: Store, state_dir: Path, how: str) -> None:
    """An unmounted share, a tidy hand: SQLite would write on into a file that no start will find."""
    store.apply(example(1))
    what = state_dir if how == "directory" else state_dir / "state.sqlite"
    what.rename(what.with_suffix(".away"))
    if how == "replaced":
        what.write_bytes(b"a copy")
    with pytest.raises(StorageError, match=r"taken away or replaced.*nothing more is sent until it can"):
        store.apply(example(2))
    what.with_suffix(".away").rename(what)
    store.apply(example(2))
    assert store.load().ledger == 2


class _Failing:
    """A connection whose COMMIT fails, as one on a disk that loses what it took."""

    def __init__(self, db: sqlite3.Connection, code: int | None, text: str) -> None:
        self._db = db
        self._error = sqlite3.OperationalError(text)
        if code is not None:
            self._error.sqlite_errorcode = code  # type: ignore[attr-defined]

    def execute(self, sql: str, *args: object) -> object:
        if sql == "COMMIT":
            raise self._error
        return self._db.execute(sql, *args)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> object:
        return getattr(self._db, name)


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (1034, "disk I/O error", SyncFailed),
        (1290, "disk I/O error", SyncFailed),
        (None, "disk I/O error", SyncFailed),
        (778, "disk I/O error", StorageError),
        (13, "database or disk is full", StorageError),
        (8, "attempt to write a readonly database", StorageError),
        (11, "database disk image is malformed", LedgerDamaged),
        (None, "database disk image is malformed", LedgerDamaged),
    ],
)
def test_what_a_failed_commit_means(store: Store, code: int | None, text: str, kind: type[Exception]) -> None:
    good = store._db
    store._db = _Failing(good, code, text)  # type: ignore[assignment]
    with pytest.raises(kind) as caught:
        store.apply(example())
    assert issubclass(SyncFailed, FatalError)
    assert "\n" not in str(caught.value)
    assert not good.in_transaction
    store._db = good


NO_SYNC = """
#define _GNU_SOURCE
#include <errno.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>
static int lost(void) { return access(getenv("DISK_IS_LOST"), F_OK) == 0; }
int fsync(int fd) {
    if (lost()) { errno = EIO; return -1; }
    return ((int (*)(int)) dlsym(RTLD_NEXT, "fsync"))(fd);
}
int fdatasync(int fd) {
    if (lost()) { errno = EIO; return -1; }
    return ((int (*)(int)) dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
"""

LOSE_THE_DISK = """
import os, sys
from pathlib import Path
from tests.unit.test_store import example
from cdc_indexer.model.errors import SyncFailed
from cdc_indexer.state.store import Store
store = Store(Path(sys.argv[1]))
store.apply(example(1))
lost = Path(os.environ["DISK_IS_LOST"])
lost.touch()
try:
    if sys.argv[2] == "commit":
        store.apply(example(2))
    else:
        store.tidy()
except SyncFailed as error:
    print(error)
lost.unlink()
store.close()
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
@pytest.mark.parametrize("when", ["commit", "checkpoint"])
def test_a_disk_that_loses_what_it_took_ends_the_program(state_dir: Path, tmp_path: Path, when: str) -> None:
    """After a failed fsync the kernel calls clean what isn't on the disk: the log mustn't be moved and removed."""
    source, library = tmp_path / "no_sync.c", tmp_path / "no_sync.so"
    source.write_text(NO_SYNC)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    done = subprocess.run(
        [sys.executable, "-c", LOSE_THE_DISK, str(state_dir), when],
        env={**os.environ, "LD_PRELOAD": str(library), "DISK_IS_LOST": str(tmp_path / "lost")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "fsync failed" in done.stdout, done.stderr
    assert (state_dir / "state.sqlite-wal").stat().st_size > 0
    store = Store(state_dir)
    try:
        assert store.load().ledger in (1, 2)
        assert store.load().meta["position"]["offset"] == store.load().ledger
    finally:
        store.close()


# What can't be trusted


def test_a_foreign_database_is_left_alone(state_dir: Path) -> None:
    state_dir.mkdir()
    with sqlite3.connect(state_dir / "state.sqlite") as db:
        db.execute("CREATE TABLE theirs (a)")
    db.close()
    before = (state_dir / "state.sqlite").read_bytes()
    with pytest.raises(StateError, match=r"another program's.*move it away to begin anew"):
        Store(state_dir)
    assert (state_dir / "state.sqlite").read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 5000, b"no database at all" * 300, b"SQLite format 3\0" + b"\0" * 5000, b"{"]
)
def test_a_damaged_file_is_said_not_replaced(state_dir: Path, content: bytes) -> None:
    state_dir.mkdir()
    (state_dir / "state.sqlite").write_bytes(content)
    with pytest.raises(StateError, match=r"state\.sqlite can't be used: .*move it away to begin anew"):
        Store(state_dir)
    assert (state_dir / "state.sqlite").read_bytes() == content


def test_an_empty_file_is_not_begun_anew(state_dir: Path) -> None:
    state_dir.mkdir()
    (state_dir / "state.sqlite").touch()
    with pytest.raises(StateError, match="it is empty"):
        Store(state_dir)
    assert (state_dir / "state.sqlite").stat().st_size == 0


def test_a_newer_format_is_left_alone(store: Store, state_dir: Path) -> None:
    store._db.execute("PRAGMA user_version = 99")
    store.close()
    for opening in (Store, ParkedStudies):
        with pytest.raises(StateError, match="newer version"):
            opening(state_dir)


@pytest.mark.parametrize("name", ["state.sqlite", "state.sqlite-wal", "state.sqlite-shm"])
def test_a_link_is_not_followed(state_dir: Path, name: str) -> None:
    state_dir.mkdir()
    (state_dir / name).symlink_to(state_dir / "elsewhere")
    with pytest.raises(StateError, match="no ordinary file"):
        Store(state_dir)
    assert not (state_dir / "elsewhere").exists()


@pytest.mark.parametrize("name", ["state.sqlite", "state.sqlite-wal"])
def test_a_directory_or_a_pipe_in_its_place(state_dir: Path, name: str) -> None:
    state_dir.mkdir()
    os.mkfifo(state_dir / name)
    with pytest.raises(StateError, match="no ordinary file"):
        Store(state_dir)
    (state_dir / name).unlink()
    (state_dir / name).mkdir()
    with pytest.raises(StateError, match="no ordinary file"):
        Store(state_dir)


@pytest.mark.parametrize("table", ["meta", "settled", "jobs"])
@pytest.mark.parametrize("column", ["name", "value", "seal"])
def test_a_changed_digit_is_noticed(store: Store, state_dir: Path, table: str, column: str) -> None:
    store.apply(example())
    db = sqlite3.connect(state_dir / "state.sqlite")
    db.execute(f"UPDATE {table} SET {column} = replace(CAST({column} AS TEXT), substr({column}, 3, 1), 'x')")
    db.commit()
    db.close()
    store.close()
    with pytest.raises(StateError, match=f"table {table} isn't as it was written.*move it away"):
        Store(state_dir)


def test_a_torn_file_is_refused_when_more_than_the_ledger_is_gone(store: Store, state_dir: Path) -> None:
    store.apply(example())
    store.close()
    torn = rewrite(state_dir, lambda content: content.__delitem__(slice(PAGE_BYTES * 2, None)))
    with pytest.raises(StateError, match="move it away to begin anew"):
        Store(state_dir)
    assert (state_dir / "state.sqlite").read_bytes() == torn


def _ledger_pages(state_dir: Path) -> list[int]:
    """The pages of the ledger's tables, found by what lies on them."""
    content = (state_dir / "state.sqlite").read_bytes()
    return [
        at
        for at in range(PAGE_BYTES * 2, len(content), PAGE_BYTES)
        if content[at : at + PAGE_BYTES].count(bytes(range(1, 17))) > 2
    ]


def filled(state_dir: Path) -> None:
    store = Store(state_dir)
    store.apply(example())
    rows = {f"1.2.{n}": Entry(f"1.2.{n}", n, 1, bytes(range(1, 17))) for n in range(10, 5000)}
    store.apply(Changes(ledger=rows))
    parked = ParkedStudies(state_dir)
    parked.discard()
    parked.close()
    store.apply(Changes(parking={"9.7": parking("9.7")}))
    store.apply(Changes(parking={"9.8": parking("9.8")}))
    # The line of a newer entry is gone, as after 90 days: its number isn't given again.
    store._db.execute("DELETE FROM parked WHERE entry = 3")
    store.close()


@pytest.mark.parametrize("how", ["pages", "root", "torn"])
def test_a_damaged_ledger_alone_is_rebuilt(state_dir: Path, how: str) -> None:
    filled(state_dir)
    pages = _ledger_pages(state_dir)
    assert len(pages) > 40

    def spoil(content: bytearray) -> None:
        if how == "torn":
            del content[-PAGE_BYTES * 3 :]
        elif how == "pages":
            for at in pages:
                content[at : at + PAGE_BYTES] = b"\xa5" * PAGE_BYTES
        else:
            with sqlite3.connect(state_dir / "state.sqlite") as db:
                ((root,),) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'places'")
            db.close()
            content[(root - 1) * PAGE_BYTES : root * PAGE_BYTES] = b"\xa5" * PAGE_BYTES

    rewrite(state_dir, spoil)
    store = Store(state_dir)
    try:
        loaded = store.load()
        assert loaded.meta.pop(LEDGER_DAMAGED) is True
        assert loaded.meta["position"] == {**POSITION, "offset": 1}
        assert loaded.settled == {"2026-03-01T12:00": "[1,3]", "2026-03-01T12:01": "[9,1]"}
        assert loaded.jobs == {"initial": {"after_pk": 1}, "sweep": {"at": 3}}
        assert (loaded.ledger, store.count, loaded.parked) == (0, 0, 1)
        assert store.rebuilt
        assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        store.apply(Changes(meta={LEDGER_DAMAGED: None}, ledger={"1.2.3": entry(3)}))
        store.apply(Changes(parking={"9.9": parking("9.9")}))
        parked = ParkedStudies(state_dir)
        assert [(one.id, one.state) for one in parked.entries(closed=True)] == [
            (1, State.DISCARDED),
            (2, State.PARKED),
            (4, State.PARKED),
        ]
        parked.close()
    finally:
        store.close()
    again = Store(state_dir)
    assert again.load().meta[LEDGER_DAMAGED] is None
    assert again.count == 1
    again.close()
    assert sorted(path.name for path in state_dir.iterdir()) == ["state.sqlite"]


@pytest.mark.parametrize("table", ["meta", "settled", "jobs", "parked"])
def test_damage_of_more_than_the_ledger_is_refused_and_not_taken_for_the_ledgers_later(
    state_dir: Path, table: str
) -> None:
    """A good copy that is put back keeps its ledger."""
    filled(state_dir)
    good = (state_dir / "state.sqlite").read_bytes()

    def spoil(content: bytearray) -> None:
        with sqlite3.connect(state_dir / "state.sqlite") as db:
            ((root,),) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,))
        db.close()
        content[(root - 1) * PAGE_BYTES : root * PAGE_BYTES] = b"\xa5" * PAGE_BYTES

    rewrite(state_dir, spoil)
    with pytest.raises(StateError, match="move it away to begin anew"):
        Store(state_dir)
    (state_dir / "state.sqlite").write_bytes(good)
    store = Store(state_dir)
    assert store.count == 4991
    store.close()


@pytest.mark.parametrize("how", ["lookup", "by_pk", "apply"])
def test_damage_found_later_ends_the_program_and_the_next_start_rebuilds(state_dir: Path, how: str) -> None:
    filled(state_dir)
    at = _ledger_pages(state_dir)[20]

    def spoil(content: bytearray) -> None:
        content[at : at + PAGE_BYTES] = b"\xa5" * PAGE_BYTES

    rewrite(state_dir, spoil)
    store = Store(state_dir)
    assert LEDGER_DAMAGED not in store.load().meta, "found at the start already"
    with pytest.raises(LedgerDamaged, match="start again"):
        if how == "lookup":
            store.lookup([f"1.2.{n}" for n in range(10, 5000)])
        elif how == "by_pk":
            store.by_pk(-1, None, 10_000)
        else:
            store.apply(Changes(ledger={f"1.2.{n}": entry(n, 9) for n in range(10, 5000)}))
    store.close()
    again = Store(state_dir)
    try:
        assert again.load().meta[LEDGER_DAMAGED] is True
        assert again.load().meta["position"]["offset"] == 1
        assert again.count == 0
    finally:
        again.close()
    assert not (state_dir / _database.DAMAGED_MARK).exists()


def test_a_flipped_bit_in_an_entry_is_noticed(store: Store, state_dir: Path) -> None:
    store.apply(Changes(ledger={"1.2.3": entry(3)}))
    store._db.execute("UPDATE ledger SET entry = CAST(entry || x'00' AS BLOB)")
    with pytest.raises(LedgerDamaged):
        store.lookup(["1.2.3"])
    assert (state_dir / _database.DAMAGED_MARK).exists()


def test_the_ledger_is_whole_though_others_hold_the_log(store: Store, state_dir: Path) -> None:
    """While somebody lists parked studies, what is committed may be in the log only: the file is smaller, and not torn."""
    store.apply(example(1))
    reader = sqlite3.connect(state_dir / "state.sqlite", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM parked").fetchone()
    rows = {f"1.2.{n}": Entry(f"1.2.{n}", n, 1, bytes(16)) for n in range(10, 5000)}
    store.apply(Changes(ledger=rows))
    # Two processes can't hold a state, but one that was killed leaves it like that.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_database, "BUSY_SECONDS", 0.1)
        again = Store(state_dir)
    try:
        assert (state_dir / "state.sqlite").stat().st_size < 100_000
        assert LEDGER_DAMAGED not in again.load().meta
        assert again.count == 4991
    finally:
        again.close()
        reader.close()


def test_it_is_not_rebuilt_under_somebody_elses_hands(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has the old file open would write into the log that now is the new one's."""
    filled(state_dir)
    (state_dir / _database.DAMAGED_MARK).touch()
    monkeypatch.setattr(_database, "BUSY_SECONDS", 0.1)
    other = ParkedStudies(state_dir)
    assert other.count == 1
    with pytest.raises(StorageError, match="locked"):
        Store(state_dir)
    assert other.discard() == 1
    other.close()
    store = Store(state_dir)
    assert (store.rebuilt, store.load().parked) == (True, 0)
    store.close()


def test_a_file_that_another_tool_left_otherwise(store: Store, state_dir: Path) -> None:
    store.apply(example())
    store.close()
    with closing(sqlite3.connect(state_dir / "state.sqlite")) as db:
        db.execute("PRAGMA journal_mode = DELETE")
    again = Store(state_dir)
    assert not again.rebuilt
    assert again._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert again.count == 1
    again.close()


def test_killed_while_it_is_rebuilt_it_is_rebuilt_again(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(state_dir)
    (state_dir / _database.DAMAGED_MARK).touch()

    def dies(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", dies)
        Store(state_dir)
    store = Store(state_dir)
    assert store.load().meta[LEDGER_DAMAGED] is True
    assert store.load().parked == 1
    store.close()


# What was there before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("checkpoint.json", b'{\n  "format": 2,\n  "time": "2026'),
        ("checkpoint.json", b'{\n  "format": 1,\n'),
        ("checkpoint.previous.json", b"{"),
        ("parked.sqlite", b"x"),
    ],
)
def test_what_an_older_program_wrote_is_named_and_left_alone(
    state_dir: Path, name: str, content: bytes
) -> None:
    state_dir.mkdir()
    (state_dir / name).write_bytes(content)
    with pytest.raises(
        StateError, match=rf"older version of this program wrote \({name}\).*move these files away"
    ):
        Store(state_dir)
    assert [(path.name, path.read_bytes()) for path in state_dir.iterdir()] == [(name, content)]


@pytest.mark.parametrize("content", [b"", b"\xff", b'{"format": 3}', b"[]"])
def test_the_copy_for_people_is_in_nobodys_way(state_dir: Path, content: bytes) -> None:
    state_dir.mkdir()
    (state_dir / "checkpoint.json").write_bytes(content)
    store = Store(state_dir)
    assert store.created
    store.close()


def test_the_log_of_a_file_that_was_moved_away_is_not_taken_for_the_new_ones(
    store: Store, state_dir: Path
) -> None:
    store.apply(example())
    log = (state_dir / "state.sqlite-wal").read_bytes()
    store.close()
    (state_dir / "state.sqlite").unlink()
    (state_dir / "state.sqlite-wal").write_bytes(log)
    again = Store(state_dir)
    try:
        assert again.created
        assert again.load().meta == {}
    finally:
        again.close()


def test_without_leave_none_is_made(state_dir: Path) -> None:
    state_dir.mkdir()
    with pytest.raises(StateError, match="isn't there"):
        Store(state_dir, create=False)
    assert list(state_dir.iterdir()) == []


# Where it lies

MOUNTS = """22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /srv/share rw - {kind} server:/export rw
31 30 8:2 / /srv/share/local rw - xfs /dev/sdb1 rw
32 22 0:41 / /srv/with\\040blank rw - {kind} server:/export rw
garbled
"""


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "ceph", "fuse.glusterfs"])
def test_a_network_file_system_is_refused(tmp_path: Path, kind: str) -> None:
    mounts = MOUNTS.format(kind=kind)
    for directory in ("/srv/share", "/srv/share/a/b", "/srv/with blank/state"):
        with pytest.raises(StateError, match=rf"network file system \({kind}\).*local disk"):
            _files.check_place(Path(directory), mounts)
    for directory in ("/srv/share/local/state", "/srv/shared", "/var/lib/cdc"):
        _files.check_place(Path(directory), mounts)
    here = mounts.replace("/srv/share/local", str(tmp_path)).replace("xfs", kind)
    with pytest.raises(StateError, match="network file system"):
        Store(tmp_path / "state", mounts=here)
    assert not (tmp_path / "state" / "state.sqlite").exists()


@pytest.mark.parametrize(
    "kind", ["ext4", "xfs", "overlay", "tmpfs", "zfs", "btrfs", "fuseblk", "9p", "virtiofs"]
)
def test_a_local_file_system_is_taken(kind: str) -> None:
    _files.check_place(Path("/srv/share/state"), MOUNTS.format(kind=kind))


# Others at the same time


def test_a_reader_never_makes_the_writer_wait(store: Store, state_dir: Path) -> None:
    store.apply(example(1))
    reader = sqlite3.connect(state_dir / "state.sqlite", isolation_level=None)
    try:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM parked").fetchone()
        for number in range(2, 50):
            store.apply(example(number))
        store.tidy()
        assert reader.execute("SELECT COUNT(*) FROM parked").fetchone() == (1,)
    finally:
        reader.close()


def test_another_process_that_keeps_it_locked_is_said(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_database, "BUSY_SECONDS", 0.1)
    store = Store(state_dir)
    store.apply(example(1))
    other = sqlite3.connect(state_dir / "state.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match=r"nothing more is sent until it can; another process holds it"):
        store.apply(example(2))
    other.close()
    store.apply(example(2))
    assert store.count == 2
    store.close()


def test_the_log_stays_small_while_commits_go_on(store: Store, state_dir: Path) -> None:
    """Nothing moves it while a commit waits; and still it doesn't grow without end."""
    stop = threading.Event()

    def tidy() -> None:
        while not stop.wait(0.005):
            store.tidy()

    thread = threading.Thread(target=tidy)
    thread.start()
    largest = 0
    try:
        for start in range(0, 60_000, 60):
            store.apply(Changes(ledger={f"1.2.{n}": entry(n) for n in range(start, start + 60)}))
            largest = max(largest, (state_dir / "state.sqlite-wal").stat().st_size)
    finally:
        stop.set()
        thread.join()
    assert largest < 16_000_000


def test_what_is_erased_is_gone_from_the_disk(store: Store, state_dir: Path) -> None:
    store.apply(Changes(parking={"1.2.3": parking()}))
    store.apply(Changes(parking={"1.2.3": Closing("1.2.3", State.ACCEPTED)}))
    store.tidy()
    for path in state_dir.iterdir():
        assert b"PEREZ" not in path.read_bytes(), path.name


def test_reading_and_writing_from_many_threads(store: Store) -> None:
    problems: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                found = store.lookup([f"1.2.{n}" for n in range(50)])
                # Each step writes one version for all of them.
                assert len({one.version for one in found.values()}) <= 1
                assert len(found) in (0, 50)
                assert len(store.by_pk(-1, None, 100)) in (0, 50)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for version in range(1, 150):
        # The pks move as well.
        store.apply(
            Changes(ledger={f"1.2.{n}": Entry(f"1.2.{n}", n + version % 2 * 100, version) for n in range(50)})
        )
    done.set()
    for thread in threads:
        thread.join()
    assert problems == []

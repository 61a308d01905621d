"""``central-index move`` takes along the record of who was shown what, whole or not at all."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from central_index.audit_key import AuditKey
from tests.central import conftest
from tests.central.conftest import Index, MakeIndex, study
from tests.central.postgres import Cluster
from tests.central.test_audit import asked, command, made_old, sealed, search

RECORD = ("audit", "audit_patients", "audit_marks")


@pytest.fixture
def old(make_index: MakeIndex) -> Index:
    """On a file, stopped, with a record of two disclosures and one that was forgotten."""
    one = make_index()
    one.start()
    one.post([study(1), study(2, patient_id="77")])
    search(one, patient="pena")
    made_old(one, 1)
    search(one, patient_id="77")
    sealed(one)
    assert command(one, "audit", "forget", "--before", time.strftime("%Y-%m")).returncode == 0
    search(one, modality="CT")
    one.stop()
    return one


@pytest.fixture
def new(make_index: MakeIndex, cluster: Cluster) -> Index:
    return make_index(cluster)


def move(old: Index, new: Index, key: Path | None = None) -> subprocess.CompletedProcess[str]:
    options = [] if key is None else ["--audit-key", str(key)]
    return conftest.command(new.directory, "--database", new.database, *options, "move", old.database)


def rows(index: Index) -> list[list[tuple[object, ...]]]:
    columns = "id, at, reader, address, kind, content, place, seal"
    return [
        sorted(index.rows(f"SELECT {columns if table == 'audit' else '*'} FROM {table}"), key=str)
        for table in RECORD
    ]


def forget_to_place_3(index: Index) -> None:
    ((seal,),) = index.rows("SELECT seal FROM audit WHERE place = 3")
    mark = AuditKey(index.audit_key).mark(3, seal)
    index.execute(
        f"DELETE FROM audit WHERE place <= 3; UPDATE audit_marks SET value = '{mark}' WHERE name = 'forgotten'"
    )


def test_the_record_is_moved_as_it_was_sealed(old: Index, new: Index) -> None:
    said = command(old, "audit", "check").stdout
    assert said.startswith("3 records sealed, 0 not yet; the last seal: 4 ")
    done = move(old, new, old.audit_key)
    assert f"Moved 3 records of who was shown what. From now on: --audit-key {old.audit_key}\n" in done.stdout
    assert rows(new) == rows(old)
    assert command(new, "audit", "check").stdout == said
    before = asked(old, "77")
    assert asked(new, "77") == before
    # And it goes on there.
    new.start()
    search(new, patient="soto")
    sealed(new)
    assert command(new, "audit", "check").stdout.startswith("5 records sealed, 0 not yet; the last seal: 6 ")
    # Repeated when the new one has records of its own, and none is missing.
    old.execute("DELETE FROM audit WHERE kind = 'audit'")
    held = rows(new)
    done = move(old, new, old.audit_key)
    assert (done.returncode, "Moved 0 records" in done.stdout) == (0, True), done.stderr
    assert rows(new) == held


def test_what_was_recorded_after_the_first_move_follows(old: Index, new: Index) -> None:
    assert move(old, new).returncode == 0
    old.start()
    search(old, patient_id="88")
    old.stop()
    assert "Moved 1 records" in move(old, new).stdout
    assert rows(new) == rows(old)
    assert command(new, "audit", "check").returncode == 0


def test_what_was_forgotten_on_one_side_isnt_moved_again(old: Index, new: Index) -> None:
    assert move(old, new).returncode == 0
    forget_to_place_3(new)
    done = move(old, new)
    assert "Moved 0 records" in done.stdout, done.stderr
    assert new.rows("SELECT place FROM audit") == [(4,)]
    assert command(new, "audit", "check").returncode == 0


def test_what_the_file_has_forgotten_stays_where_it_was_moved_to(old: Index, new: Index) -> None:
    assert move(old, new).returncode == 0
    forget_to_place_3(old)
    old.start()
    search(old, patient_id="88")
    old.stop()
    done = move(old, new)
    assert "Moved 1 records" in done.stdout, done.stderr
    assert new.rows("SELECT place FROM audit ORDER BY place") == [(2,), (3,), (4,), (5,)]
    assert command(new, "audit", "check").returncode == 0


def test_two_records_arent_mixed(old: Index, new: Index) -> None:
    new.start()
    search(new, patient="pena")
    sealed(new)
    held = rows(new)
    done = move(old, new)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        "Error: Nothing was moved: the new database already has a record of its own"
    )
    assert rows(new) == held
    assert new.studies() == []
    # Nor where both went on after the first move.
    new.execute("; ".join(f"DELETE FROM {table} WHERE true" for table in RECORD))
    assert move(old, new).returncode == 0
    search(new, patient="jose")
    old.start()
    search(old, patient="jose")
    old.stop()
    assert "already has a record of its own" in move(old, new).stderr


def test_seals_that_differ_arent_mixed(old: Index, new: Index) -> None:
    """As after one of both was changed by hand."""
    assert move(old, new).returncode == 0
    old.execute("UPDATE audit SET seal = 'another' WHERE place = 4")
    assert "Moved 0 records" in move(old, new).stdout
    old.start()
    search(old, patient="jose")
    old.stop()
    assert "already has a record of its own" in move(old, new).stderr
    assert command(new, "audit", "check").returncode == 0


def test_a_record_of_another_key_isnt_mixed_with(old: Index, new: Index) -> None:
    new.audit_key.write_text("another-random-key-of-the-tests-0123456")
    assert command(new, "audit", "check").returncode == 0
    done = move(old, new)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        "Error: Nothing was moved: in the new database another key seals the record"
    )


def test_a_key_beside_the_file_is_found(old: Index, new: Index) -> None:
    beside = Path(old.database).with_suffix(".audit-key")
    old.audit_key.rename(beside)
    new.audit_key.unlink()
    assert f"--audit-key {beside}\n" in move(old, new).stdout
    # Nothing is made where it was looked for.
    assert not (new.directory / "central.audit-key").exists()


def test_what_was_wholly_forgotten_stays_so(old: Index, new: Index) -> None:
    old.execute("DELETE FROM audit; DELETE FROM audit_patients")
    said = command(old, "audit", "check").stdout
    assert move(old, new).returncode == 0
    assert command(new, "audit", "check").stdout == said

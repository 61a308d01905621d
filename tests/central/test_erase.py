"""One patient's studies are erased everywhere; nobody else's, and not by half."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.central import conftest
from tests.central.conftest import KEYS, Index, study
from tests.central.test_audit import command, of_patient


def held(index: Index) -> list[int]:
    return sorted(one["study_pk"] for one in index.studies())


def test_one_patient_is_erased_everywhere_and_that_is_recorded(index: Index) -> None:
    index.post([study(1), study(2), study(3, patient_id="77")])
    index.post(study(4, center="111"), key=KEYS["centers"]["111"])
    done = command(index, "erase", "--patient", "26267267-K", "--yes")
    assert (done.returncode, done.stdout) == (0, "Studies erased: 3.\n"), done.stderr
    assert held(index) == [3]
    assert "26267267" not in str(index.rows("SELECT * FROM studies"))
    (record,) = of_patient(index, "26267267-K")
    assert (record["kind"], len(record["studies"])) == ("erase", 3)
    assert command(index, "audit", "check").returncode == 0


def test_before_it_asks_it_says_what_there_is(index: Index) -> None:
    index.post(
        [study(1), study(2, patient_name="PENA^J"), study(3, patient_id="77", patient_name="SOTO^ANA")]
    )
    index.post(study(4, center="111"), key=KEYS["centers"]["111"])
    done = command(index, "erase", "--patient", "26267267-K")
    assert done.returncode == 1
    assert done.stdout.splitlines()[:-1] == [
        "3 studies of 26267267-K, in these centres:",
        "  000: 2",
        "  111: 1",
        "Names: PENA^J, PEÑA^JOSÉ.",
        "Ids: 26267267-K.",
    ]
    # He has seen them.
    (record,) = of_patient(index, "26267267-K")
    assert (record["kind"], len(record["studies"])) == ("erase-preview", 3)
    assert held(index) == [1, 2, 3, 4]
    assert index.log == ""
    done = conftest.command(
        index.directory, "--database", index.database, "--audit-key", str(index.audit_key),
        "erase", "--patient", "26267267-K", said="y\n",
    )  # fmt: skip
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "Studies erased: 3.")
    assert held(index) == [3]


@pytest.mark.parametrize("rule", [[], ["--id-rule", "cl.rut"]])
def test_others_with_the_same_letters_stay(index: Index, rule: list[str]) -> None:
    index.post([study(1, patient_id="99"), study(2, patient_id="9-9"), study(3, patient_id="0099")])
    index.post([study(4, patient_id="0"), study(5, patient_id="-"), study(6, patient_id=None)])
    for nothing in ("000", " ", ".", "/"):
        done = command(index, *rule, "erase", "--patient", nothing)
        assert (done.returncode, done.stdout) == (0, "Studies erased: 0.\n")
    for wrong in ("", "9" * 251, "9\0"):
        assert command(index, *rule, "erase", "--patient", wrong, "--yes").returncode != 0
    assert held(index) == [1, 2, 3, 4, 5, 6]
    assert command(index, *rule, "erase", "--patient", "99", "--yes").stdout == "Studies erased: 1.\n"
    assert held(index) == [2, 3, 4, 5, 6]
    assert command(index, *rule, "erase", "--patient", "-", "--yes").stdout == "Studies erased: 1.\n"
    assert held(index) == [2, 3, 4, 6]


def test_a_valid_id_is_erased_however_it_is_written(index: Index) -> None:
    index.post([study(1, patient_id="12.345.678-5"), study(2, patient_id="012345678-5")])
    assert command(index, "erase", "--patient", "12345678-5", "--yes").stdout == "Studies erased: 0.\n"
    done = command(index, "erase", "--patient", "12345678-5", "--id-rule", "cl.rut")
    assert "Ids: 012345678-5, 12.345.678-5." in done.stdout
    done = command(index, "--id-rule", "cl.rut", "erase", "--patient", "12345678-5", "--yes")
    assert done.stdout == "Studies erased: 2.\n"


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_the_file_doesnt_hold_what_was_erased(index: Index) -> None:
    """Nor does its log. Rows that were moved leave a copy behind, and the index of words keeps deleted ones."""
    many = [study(n, patient_id=f"7{n}", patient_name=f"OTHER^{n}") for n in range(1, 300)]
    for one in many[::3]:
        one |= {"patient_id": "4711-XQ", "patient_name": "ZYXWABLE^QUENTIN", "note": "ZYXWABLE had it"}
    for begin in range(0, 300, 100):
        index.post(many[begin : begin + 100])
    # A second version, in which the name was put right.
    index.post(study(1, patient_id="4711-XQ", patient_name="ZYXWABLE^QUINTIN"))
    # And one that was written by a SQLite that leaves what it frees as it is.
    index.execute(
        "PRAGMA secure_delete = OFF;"
        "UPDATE studies SET more = json_object('note', hex(zeroblob(9000)) || 'ZYXWABLE') WHERE study_pk = 2;"
        "UPDATE studies SET more = '{}' WHERE study_pk = 2"
    )
    secrets = (b"4711-XQ", b"4711", b"ZYXWABLE", b"zyxwable", b"QUENTIN", b"QUINTIN")
    files = [Path(index.database), Path(f"{index.database}-wal")]
    assert b"ZYXWABLE" in b"".join(path.read_bytes() for path in files)
    done = command(index, "erase", "--patient", "4711-XQ", "--yes")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Studies erased: 100.\n", "")
    left = b"".join(path.read_bytes() for path in files if path.exists())
    assert [secret for secret in secrets if secret in left] == []
    # And the others are found as before.
    assert len(index.studies(patient="other", limit=500)) == 199
    assert index.post(study(1)).status_code == 201

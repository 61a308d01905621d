"""Every disclosure is recorded; a record that is changed or taken out is found."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from central_index.audit import Record
from central_index.disclosure import Disclosure
from central_index.keys import Role
from tests.central import conftest
from tests.central.conftest import READER, Index, MakeIndex, study
from tests.indexer import wait_until


def command(index: Index, *arguments: str) -> subprocess.CompletedProcess[str]:
    options = ["--database", index.database, "--audit-key", str(index.audit_key)]
    return conftest.command(index.directory, *options, *arguments)


def asked(index: Index, patient: str, *options: str) -> list[dict[str, Any]]:
    done = command(index, *options, "audit", "--patient", patient)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def of_patient(index: Index, patient: str, *options: str) -> list[dict[str, Any]]:
    """But for who looked into the record."""
    return [one for one in asked(index, patient, *options) if one["kind"] != "audit"]


def made_old(index: Index, number: int) -> None:
    """The first records, as if they had been made 70 days ago; they are sealed anew."""
    index.execute("UPDATE audit SET place = NULL, seal = NULL")
    index.execute(
        "UPDATE audit SET at = at - 6048000000000"
        f" WHERE id IN (SELECT id FROM audit ORDER BY at LIMIT {number})"
    )


def sealed(index: Index) -> None:
    wait_until(
        lambda: index.rows("SELECT count(*) FROM audit WHERE place IS NULL") == [(0,)], 20, "it isn't sealed"
    )


#: Each test asks what no test before has asked of the same process: that isn't recorded again.
_limits = count(100)


def search(index: Index, **filters: Any) -> int:
    return index.ask("POST", "/api/v1/search", READER, json={"limit": next(_limits), **filters}).status_code


def test_who_was_shown_a_persons_studies_is_told(index: Index) -> None:
    index.post([study(1), study(2, patient_id="77", patient_name="SOTO^ANA")])
    search(index, patient="jose")
    search(index, patient_id="77")
    search(index, patient_id="26267267-K", center="111")
    search(index, modality="CT")
    (first, in_vain, last) = of_patient(index, "26267267-K")
    assert (first["reader"], first["address"], first["kind"]) == ("radiology", "127.0.0.1", "search")
    assert first["studies"] == [{"center": "000", "study_iuid": "1.2.840.1"}]
    assert first["looked_for"] == ["patient"]
    # Found or not: who looked is told.
    assert (in_vain["studies"], in_vain["looked_for"]) == ([], ["center", "patient_id"])
    assert last["looked_for"] == ["modality"]
    # And nothing of another patient's.
    assert "77" not in json.dumps([first, in_vain])
    assert len(of_patient(index, "77")) == 2
    assert of_patient(index, "nobody") == []


def test_nothing_personal_lies_open(index: Index) -> None:
    index.post(study())
    search(index, patient="jose", patient_id="26267267-K")
    sealed(index)
    text = str(index.rows("SELECT * FROM audit")) + str(index.rows("SELECT * FROM audit_patients"))
    for secret in ("jose", "JOS", "26267267", "1.2.840"):
        assert secret not in text


def test_a_page_that_asks_again_and_again_is_recorded_once(index: Index) -> None:
    index.post(study(1))
    for _ in range(3):
        search(index, patient="pena", limit=77)
    assert index.rows("SELECT count(*) FROM audit") == [(1,)]
    # What is new on it is recorded.
    index.post(study(2))
    search(index, patient="pena", limit=77)
    index.post(study(1, patient_name="PENA^ANOTHER"))
    search(index, patient="pena", limit=77)
    search(index, patient="pena", limit=77)
    assert index.rows("SELECT count(*) FROM audit") == [(3,)]
    assert [len(one["studies"]) for one in of_patient(index, "26267267-K")] == [1, 1, 1]


def test_without_a_record_there_is_no_answer(index: Index) -> None:
    index.post(study())
    index.execute("ALTER TABLE audit RENAME TO hidden")
    try:
        answer = index.ask("POST", "/api/v1/search", READER, json={"patient": "pena", "limit": 78})
        assert answer.status_code == 503
        assert "PE" not in answer.text
    finally:
        index.execute("ALTER TABLE hidden RENAME TO audit")
    assert search(index, patient="pena") == 200


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ("UPDATE audit SET reader = 'another' WHERE place = 2", "Changed: place 2"),
        ("UPDATE audit SET at = at - 1000000 WHERE place = 1", "Changed: place 1"),
        (
            "UPDATE audit SET content = (SELECT content FROM audit WHERE place = 1) WHERE place = 3",
            "Changed: place 3",
        ),
        ("DELETE FROM audit WHERE place = 2", "Missing: 1 after place 1."),
        ("DELETE FROM audit WHERE place = 1", "Missing: 1 after place 0."),
        (
            "INSERT INTO audit_marks SELECT 'forgotten', '2 ' || seal FROM audit WHERE place = 2;"
            "DELETE FROM audit WHERE place <= 2",
            "The mark that says what was forgotten wasn't made with this key: it doesn't count.\n"
            "Missing: 2 after place 0.",
        ),
        ("INSERT INTO audit_marks VALUES ('forgotten', 'anything')", "The mark that says"),
        ("DELETE FROM audit_patients", "Its patients were changed: place 1."),
        ("SELECT 1", None),
    ],
)
def test_a_changed_or_missing_record_is_found(index: Index, edit: str, said: str | None) -> None:
    index.post(study())
    for name in ("pena", "jose", "jo"):
        search(index, patient=name)
    sealed(index)
    index.execute(edit)
    done = command(index, "audit", "check")
    assert done.returncode == (0 if said is None else 1), done.stdout + done.stderr
    assert said is None or said in done.stdout
    assert "not yet; the last seal: 3 " in done.stdout


def test_whole_months_are_dropped_and_the_rest_is_still_checked(index: Index) -> None:
    index.post(study())
    for name in ("pena", "jose"):
        search(index, patient=name)
    made_old(index, 2)
    search(index, patient="jo")
    sealed(index)
    assert command(index, "audit", "forget", "--before", "2020-01").stdout == "0 records dropped.\n"
    this_month = time.strftime("%Y-%m")
    assert command(index, "audit", "forget", "--before", this_month).stdout == "2 records dropped.\n"
    assert index.rows("SELECT count(*) FROM audit_patients") == [(1,)]
    done = command(index, "audit", "check")
    assert (done.returncode, done.stdout[:33]) == (0, "2 records sealed, 0 not yet; the "), done.stdout
    assert "last seal: 4 " in done.stdout
    # Who dropped them is told, and goes on to be.
    (said,) = done.stdout.splitlines()[1:]
    assert re.fullmatch(
        r".* central-index forget \(.+@.+\) dropped what was before .*-01 00:00:00: 2 records\.", said
    )
    made_old(index, 2)
    search(index, patient="j")
    sealed(index)
    assert command(index, "audit", "forget", "--before", this_month).stdout == "2 records dropped.\n"
    done = command(index, "audit", "check")
    assert (done.returncode, done.stdout[:33]) == (0, "2 records sealed, 0 not yet; the "), done.stdout
    assert [line.split(": ")[-1] for line in done.stdout.splitlines()[1:]] == ["2 records.", "2 records."]


def test_the_last_seal_is_kept_when_all_was_forgotten(index: Index) -> None:
    search(index, patient="pena")
    made_old(index, 1)
    search(index, patient="jo")
    sealed(index)
    command(index, "audit", "forget", "--before", time.strftime("%Y-%m"))
    ((kept,),) = index.rows("SELECT value FROM audit_marks WHERE name = 'forgotten'")
    place, seal, _ = kept.split()
    index.execute("DELETE FROM audit")
    done = command(index, "audit", "check")
    assert done.stdout == f"0 records sealed, 0 not yet; the last seal: {place} {seal[:16]}.\n"


def test_a_month_that_isnt_over_is_kept(index: Index) -> None:
    search(index, patient="pena")
    sealed(index)
    next_month = time.strftime("%Y-%m", time.localtime(time.time() + 31 * 86_400))
    for month in (next_month, "2999-01", "9999-12", "soon", "0001-01"):
        done = command(index, "audit", "forget", "--before", month)
        # (The first month of all is one before which there is nothing, or no time at all.)
        assert done.returncode == 2 or month == "0001-01"
    assert (
        "would drop a month that isn't over: give 20"
        in command(index, "audit", "forget", "--before", next_month).stderr
    )
    assert index.rows("SELECT count(*) FROM audit") == [(1,)]


@pytest.mark.one_server
def test_old_months_go_by_themselves(make_index: MakeIndex) -> None:
    index = make_index()
    index.start()
    index.post(study())
    for name in ("pena", "jose", "jo"):
        search(index, patient=name)
    index.stop()
    made_old(index, 2)
    index.options = {"CENTRAL_AUDIT_MONTHS": "1"}
    index.start()
    wait_until(
        lambda: index.rows("SELECT place FROM audit ORDER BY place") == [(3,), (4,)], 30, "still there"
    )
    assert index.rows("SELECT count(*) FROM audit_patients") == [(1,)]
    said, dropped = command(index, "audit", "check").stdout.splitlines()
    assert said.startswith("2 records sealed, 0 not yet; the last seal: 4 ")
    assert "central-index (--audit-months) dropped what was before" in dropped


def test_another_key_is_refused(index: Index, make_index: MakeIndex) -> None:
    search(index)
    index.audit_key.write_text("another-random-key-of-the-tests-0123456")
    try:
        done = command(index, "audit", "check")
        assert done.returncode == 1
        assert (
            done.stderr
            == "Error: The audit's records were made with another key: give --audit-key its file.\n"
        )
    finally:
        index.audit_key.write_text("a-random-key-of-the-tests-0123456789")


def test_a_key_is_made_where_there_is_none(make_index: MakeIndex) -> None:
    index = make_index()
    index.audit_key.unlink()
    index.start()
    assert index.audit_key.stat().st_mode & 0o777 == 0o600
    assert len(index.audit_key.read_text()) > 40
    assert {path.name for path in index.directory.iterdir() if "audit" in path.name} == {"audit.key"}


def test_only_the_persons_own_records_are_shown(index: Index) -> None:
    """The ids of others may be written with the same letters."""
    index.post([study(1, patient_id="99"), study(2, patient_id="9-9"), study(3, patient_id="0099")])
    search(index, modality="CT")
    search(index, patient_id="9-9")
    search(index, patient_id="0099")
    (one,) = of_patient(index, "99")
    assert [held["study_iuid"] for held in one["studies"]] == ["1.2.840.1"]
    # An id that isn't valid by the rule has no other spelling.
    assert of_patient(index, "99", "--id-rule", "cl.rut") == [one]
    for nothing in ("-", "0", "000", " "):
        assert of_patient(index, nothing, "--id-rule", "cl.rut") == []


def test_a_valid_id_is_meant_however_it_is_written(index: Index) -> None:
    index.post([study(1, patient_id="12.345.678-5"), study(2, patient_id="012345678-5")])
    search(index, modality="CT")
    search(index, patient_id="123456785")
    assert [len(one["studies"]) for one in of_patient(index, "12.345.678-5")] == [1]
    both = of_patient(index, "12345678-5", "--id-rule", "cl.rut")
    assert [len(one["studies"]) for one in both] == [2, 0]
    done = command(index, "audit", "--patient", "12345678-5", "--id-rule", "cl.rut")
    assert len(done.stdout.splitlines()) == 4
    done = command(index, "audit", "--patient", "1", "--id-rule", "no.rule")
    assert (done.returncode, done.stderr[:27]) == (1, "Error: There is no rule no.")


def test_who_looked_into_the_record_is_recorded(index: Index) -> None:
    index.post(study())
    search(index, patient="pena")
    assert [one["kind"] for one in asked(index, "26267267-K")] == ["search"]
    last = asked(index, "26267267-K")[-1]
    assert (last["kind"], last["reader"], last["studies"]) == ("audit", "central-index audit", [])
    assert "@" in last["address"]
    # Nobody's business but this person's, and sealed at once.
    assert [one["kind"] for one in asked(index, "77")] == []
    assert index.rows("SELECT count(*) FROM audit WHERE kind = 'audit' AND place IS NULL") == [(0,)]
    assert command(index, "audit", "check").returncode == 0


def test_what_cant_be_recorded_isnt_shown(index: Index) -> None:
    index.post(study())
    search(index, patient="pena")
    refuse, allow = (
        ("CREATE TRIGGER no BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no'); END", "DROP TRIGGER no")
        if index.database.endswith(".sqlite")
        else (
            "CREATE RULE no AS ON INSERT TO audit DO INSTEAD INSERT INTO edits VALUES (NULL)",
            "DROP RULE no ON audit",
        )
    )
    index.execute(refuse)
    try:
        done = command(index, "audit", "--patient", "26267267-K")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("Error: The database can't be reached, can't be written to, or is busy")
    finally:
        index.execute(allow)


def test_an_id_among_the_words_is_one_that_was_looked_for(index: Index) -> None:
    for words in ("soto 88-1", "88-1", "88 - 1", "soto", "88-1k", "8"):
        search(index, patient=words)
    found = of_patient(index, "88-1")
    assert [(one["looked_for"], one["studies"]) for one in found] == [(["patient"], [])] * 3
    assert len(of_patient(index, "88-1K")) == 1
    assert of_patient(index, "soto") == []
    sealed(index)
    assert command(index, "audit", "check").returncode == 0


def test_who_goes_through_the_whole_index_fills_no_memory() -> None:
    """And waits no longer for each page than for the first, as all others do with him."""
    pages = 150
    recorded: list[Record] = []

    class Kept:
        async def add(self, record: Record) -> None:
            recorded.append(record)

    kept: Any = Kept()
    disclosure = Disclosure(kept, None)
    asks: Any = SimpleNamespace(client=SimpleNamespace(host="192.0.2.1"))

    async def run() -> None:
        for page in range(pages):
            shown = [
                {"center": "000", "study_iuid": f"1.2.{page}.{n}", "versions": 1, "patient_id": "1"}
                for n in range(500)
            ]
            for _ in range(2):
                await disclosure.shown(asks, Role("r", writes=False), {"after": str(page)}, shown)

    asyncio.run(run())
    assert len(recorded) == pages
    assert sum(len(known) for _, known in disclosure._lately.values()) <= 50_000

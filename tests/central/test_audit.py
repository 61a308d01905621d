"""Every disclosure is recorded; a record that is changed or taken out is found."""

from __future__ import annotations

import asyncio
import json
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
from tests.central.conftest import KEYS, READER, Index, MakeIndex, study
from tests.indexer import wait_until


def command(index: Index, *arguments: str) -> subprocess.CompletedProcess[str]:
    options = ["--database", index.database, "--audit-key", str(index.audit_key)]
    return conftest.command(index.directory, *options, *arguments)


def of_patient(index: Index, patient: str) -> list[dict[str, Any]]:
    done = command(index, "audit", "--patient", patient)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


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
    search(index, patient_id="26.267.267-k")
    search(index, modality="CT")
    (first, asked, last) = of_patient(index, "26.267.267-K")
    assert (first["reader"], first["address"], first["kind"]) == ("radiology", "127.0.0.1", "search")
    assert first["studies"] == [{"center": "000", "study_iuid": "1.2.840.1"}]
    assert first["looked_for"] == ["patient"]
    # Found or not: who looked is told.
    assert (asked["studies"], asked["looked_for"]) == ([], ["patient_id"])
    assert last["looked_for"] == ["modality"]
    # And nothing of another patient's.
    assert "77" not in json.dumps([first, asked])
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
    sealed(index)
    assert command(index, "audit", "forget", "--before", "2020-01").stdout == "0 records dropped.\n"
    later = time.strftime("%Y-%m", time.localtime(time.time() + 40 * 86_400))
    assert command(index, "audit", "forget", "--before", later).stdout == "2 records dropped.\n"
    assert index.rows("SELECT count(*) FROM audit_patients") == [(0,)]
    search(index, patient="jo")
    sealed(index)
    done = command(index, "audit", "check")
    assert (done.returncode, done.stdout[:33]) == (0, "1 records sealed, 0 not yet; the "), done.stdout
    assert "last seal: 3 " in done.stdout
    index.execute("DELETE FROM audit WHERE place = 3")
    search(index, patient="j")
    sealed(index)
    # The last one can be taken out unseen by this alone: the last seal that `check` said tells.
    assert command(index, "audit", "forget", "--before", "soon").returncode == 2


@pytest.mark.one_server
def test_old_months_go_by_themselves(make_index: MakeIndex) -> None:
    index = make_index()
    index.start()
    index.post(study())
    for name in ("pena", "jose", "jo"):
        search(index, patient=name)
    index.stop()
    # As if the first two had been asked 70 days ago.
    index.execute("UPDATE audit SET place = NULL, seal = NULL")
    index.execute(
        "UPDATE audit SET at = at - 6048000000000 WHERE id IN (SELECT id FROM audit ORDER BY at LIMIT 2)"
    )
    index.options = {"CENTRAL_AUDIT_MONTHS": "1"}
    index.start()
    wait_until(lambda: index.rows("SELECT place FROM audit") == [(3,)], 30, "still there")
    assert index.rows("SELECT count(*) FROM audit_patients") == [(1,)]
    assert command(index, "audit", "check").stdout.startswith(
        "1 records sealed, 0 not yet; the last seal: 3 "
    )


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


def test_one_patient_is_erased_everywhere_and_that_is_recorded(index: Index) -> None:
    index.post([study(1), study(2, patient_id="26.267.267-k"), study(3, patient_id="77")])
    index.post(study(4, center="111"), key=KEYS["centers"]["111"])
    assert command(index, "erase", "--patient", "26267267-K").returncode == 1
    done = command(index, "erase", "--patient", "26267267-K", "--yes")
    assert (done.returncode, done.stdout) == (0, "3 studies erased.\n"), done.stderr
    assert [one["study_pk"] for one in index.studies()] == [3]
    assert "26267267" not in str(index.rows("SELECT * FROM studies"))
    (record,) = of_patient(index, "26267267-K")
    assert (record["kind"], len(record["studies"])) == ("erase", 3)


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

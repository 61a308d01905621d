"""`parked list`, `retry` and `discard` as an administrator uses them, with and without a running `run`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.indexer import KEY, Indexer, wait_until
from tests.pacs import Pacs
from tests.receiver import Answer, Receiver

pytestmark = pytest.mark.one_server

REJECTED = Answer(422, {"reason": f"NUNEZ^MARIA is unknown here, your key was {KEY}"})


@pytest.fixture
def parked(pacs: Pacs, receiver: Receiver, tmp_path: Path) -> Iterator[Indexer]:
    """An indexer that doesn't run; of three studies the index has rejected 1.1 and 1.2."""
    indexer = Indexer(tmp_path / "indexer", pacs, receiver.url, delivery={"settle_seconds": 0.5})
    receiver.for_studies(["1.1", "1.2"], REJECTED)
    for uid in ("1.1", "1.2", "1.3"):
        pacs.store_study(uid, patient_id=uid, patient_name="NÚÑEZ^MARÍA")
    assert indexer.run("run", "--until-caught-up").returncode == 0, indexer.log
    yield indexer
    indexer.close()


def entries(indexer: Indexer, *options: str) -> list[dict[str, Any]]:
    done = indexer.run("parked", "list", "--json", *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_list_tells_all_but_patients(parked: Indexer) -> None:
    done = parked.run("parked", "list")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    header, *lines = lines
    assert header.split() == ["ENTRY", "STATE", "PARKED", "AT", "STUDY", "STUDY_IUID", "HTTP", "REASON"]
    assert len(lines) == 2
    # Local time, as a clock on the wall shows it.
    assert all(re.search(r"  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d\d:\d\d  ", line) for line in lines)
    # Which of the two was rejected first is chance.
    for uid in ("1.1", "1.2"):
        assert sum([uid, "422"] == line.split()[7:9] and "study_pk " in line for line in lines) == 1
    assert "NUNEZ" not in done.stdout
    spanish = parked.run("parked", "list", "--lang", "es").stdout
    said = (
        "El índice central rechazó este estudio (estado 422): "
        "`{} -m cdc_indexer parked list --show-answer` muestra por qué."
    )
    assert said.format(sys.executable) in spanish
    assert sorted(entry["study_iuid"] for entry in entries(parked)) == ["1.1", "1.2"]
    assert "NUNEZ^MARIA is unknown here" in parked.run("parked", "list", "--show-answer").stdout
    answers = [entry["answer"] for entry in entries(parked, "--show-answer")]
    assert all("NUNEZ" in answer and "your key was [removed]" in answer for answer in answers)


@pytest.mark.parametrize("how", ["without a word", "--all", "by number", "by study_iuid"])
def test_retry(parked: Indexer, receiver: Receiver, how: str) -> None:
    receiver.normal()
    words = {
        "without a word": [],
        "--all": ["--all"],
        "by number": [str(entry["entry"]) for entry in entries(parked)],
        "by study_iuid": ["1.1", "1.2"],
    }[how]
    done = parked.run("parked", "retry", *words)
    assert (done.returncode, done.stdout) == (
        0,
        "2 accepted, 0 superseded by something newer, 0 still parked.\n",
    )
    assert sorted(receiver.study_iuids()) == ["1.1", "1.2", "1.3"]
    assert entries(parked) == []
    assert [entry["state"] for entry in entries(parked, "--all")] == ["accepted", "accepted"]
    first, again = (entry for entry in receiver.sent() if entry.study_iuids == ["1.1"])
    # Read anew, and the same: so it has the same key.
    assert (first.json, first.idempotency_key) == (again.json, again.idempotency_key)


def test_what_is_rejected_again_stays_parked(parked: Indexer, receiver: Receiver) -> None:
    receiver.normal()
    receiver.for_studies(["1.2"], REJECTED)
    done = parked.run("parked", "retry")
    assert done.returncode == 1
    assert done.stdout == "1 accepted, 0 superseded by something newer, 1 still parked.\n"
    assert [entry["study_iuid"] for entry in entries(parked)] == ["1.2"]


def test_a_newer_version_that_was_accepted_closes_it(parked: Indexer, pacs: Pacs, receiver: Receiver) -> None:
    receiver.normal()
    pks = {entry["study_iuid"]: entry["study_pk"] for entry in entries(parked)}
    pacs.update_counts(pks["1.1"], 1, 7, "CT")
    with parked.running():
        wait_until(lambda: "1.1" in receiver.study_iuids(), what="the newer version")
        # While `run` is active, it is the one that sends.
        done = parked.run("parked", "retry")
        assert done.returncode == 0
        assert "1 marked: the running `run` sends them" in done.stdout
        wait_until(lambda: "1.2" in receiver.study_iuids(), what="the other one")
        wait_until(lambda: entries(parked) == [], what="closed")
    states = {entry["study_iuid"]: entry["state"] for entry in entries(parked, "--all")}
    assert states == {"1.1": "superseded", "1.2": "accepted"}
    assert receiver.study_iuids().count("1.1") == 1


def test_discard(parked: Indexer, receiver: Receiver) -> None:
    assert parked.run("parked", "discard").returncode == 2
    assert parked.run("parked", "discard", "1.1").stdout == "1 discarded.\n"
    assert [entry["study_iuid"] for entry in entries(parked)] == ["1.2"]
    assert parked.run("parked", "discard", "--all").stdout == "1 discarded.\n"
    assert entries(parked) == []
    # No document, and no answer that quotes one, is left in the file.
    kept = b"".join(path.read_bytes() for path in parked.state_dir.glob("state.sqlite*"))
    assert b"NUNEZ" not in kept
    assert "NÚÑEZ".encode() not in kept
    receiver.normal()
    assert parked.run("parked", "retry").returncode == 0
    assert receiver.study_iuids() == ["1.3"]


def test_a_study_that_is_not_parked_is_one_sentence(parked: Indexer) -> None:
    for command in ("retry", "discard"):
        done = parked.run("parked", command, "1.9")
        assert done.returncode == 1
        assert done.stderr == "cdc-indexer: Nothing of a study 1.9 is parked: `parked list` shows what is.\n"


def test_a_study_that_got_its_uid_is_parked_no_more(pacs: Pacs, receiver: Receiver, tmp_path: Path) -> None:
    indexer = Indexer(tmp_path / "indexer", pacs, receiver.url, delivery={"settle_seconds": 0.2})
    with pacs.transaction():
        study_pk = pacs.store_study("1.1")
        pacs.execute("UPDATE study SET study_iuid = '' WHERE pk = %s", (study_pk,))
    pacs.store_study("1.2")
    assert indexer.run("run", "--until-caught-up").returncode == 0, indexer.log
    assert [entry["study_pk"] for entry in entries(indexer)] == [study_pk]
    pacs.execute("UPDATE study SET study_iuid = '1.3' WHERE pk = %s", (study_pk,))
    assert indexer.run("run", "--until-caught-up").returncode == 0, indexer.log
    assert sorted(receiver.study_iuids())[-2:] == ["1.2", "1.3"]
    assert entries(indexer) == []
    assert [entry["state"] for entry in entries(indexer, "--all")] == ["superseded"]

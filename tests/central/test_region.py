"""How the region stands, for who runs it: centres, health, metrics; never a patient."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import Any

import pytest

from tests.central.conftest import KEYS, READER, WRITER, Index, study
from tests.central.test_reports import AT, report


def send(index: Index, center: str, at: int = AT, **values: Any) -> None:
    answer = index.ask(
        "POST", "/api/v1/register/report", KEYS["centers"][center], json=report(at, center=center, **values)
    )
    assert answer.status_code == 200


def centers(index: Index) -> list[dict[str, Any]]:
    answer = index.ask("GET", "/api/v1/centers", READER)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["centers"]
    return found


def states(index: Index) -> list[tuple[str, str]]:
    return [(one["center"], one["state"]) for one in centers(index)]


def test_each_centre_has_a_line(index: Index) -> None:
    send(
        index,
        "000",
        state="warning",
        problems=["held: the key is refused"],
        behind_seconds=7.5,
        waiting=3,
        parked=1,
    )
    index.post([study(1), study(2)])
    old = time.time() - 7 * 86_400
    index.execute(f"UPDATE studies SET first_received_at = {old - 1} WHERE study_pk = 2")
    one, other = centers(index)
    assert (one["center"], one["state"], one["problems"]) == ("000", "warning", ["held: the key is refused"])
    assert (one["behind_seconds"], one["waiting"], one["parked"], one["program"]) == (7.5, 3, 1, "1.0.0")
    assert (one["studies"], one["today"]) == (2, 1)
    # Unless midnight was a second ago.
    assert one["week_before"] == 1 or time.localtime().tm_hour == 0
    assert one["last_delivery"] == "2026-11-28T02:10:00Z"
    assert (other["center"], other["state"], other["studies"], other["today"]) == ("111", "unknown", 0, 0)
    assert (
        one["changed_at"][:16] == time.strftime("%Y-%m-%dT%H:%M", time.gmtime()) or time.gmtime().tm_sec < 5
    )


def test_who_needs_somebody_comes_first(index: Index) -> None:
    send(index, "000")
    assert states(index) == [("111", "unknown"), ("000", "ok")]
    send(index, "111", state="failed")
    assert states(index) == [("111", "failed"), ("000", "ok")]
    differing = {"at": "2026-11-28T01:00:00Z", "compared": 9, "missing": 0, "stale": 1, "extra": 0, "kept": 0}
    send(index, "000", AT + 1, last_pass=differing)
    assert states(index) == [("111", "failed"), ("000", "differing")]
    # What is kept on purpose is no difference.
    send(index, "000", AT + 2, last_pass={**differing, "stale": 0, "kept": 5})
    send(index, "111", AT + 1)
    assert states(index) == [("000", "ok"), ("111", "ok")]
    index.execute("UPDATE reports SET received_at = received_at - 290 WHERE center = '111'")
    assert states(index) == [("000", "ok"), ("111", "ok")]
    index.execute("UPDATE reports SET received_at = received_at - 11 WHERE center = '111'")
    assert states(index) == [("111", "silent"), ("000", "ok")]
    # A late report says that it lives.
    send(index, "111", AT - 1, state="failed")
    assert states(index) == [("000", "ok"), ("111", "ok")]


def test_a_centre_that_was_taken_out_is_not_silent(index: Index) -> None:
    index.post(study())
    for center in KEYS["centers"]:
        send(index, center)
    index.execute("UPDATE reports SET received_at = received_at - 400")
    assert states(index) == [("000", "silent"), ("111", "silent")]
    index.write_keys({**KEYS, "centers": {**KEYS["centers"], "000": {"disabled": True}}})
    assert states(index) == [("111", "silent"), ("000", "unknown")]
    assert centers(index)[1]["studies"] == 1


def test_the_centres_are_for_readers(shared_index: Index) -> None:
    assert shared_index.ask("GET", "/api/v1/centers").status_code == 401
    assert shared_index.ask("GET", "/api/v1/centers", WRITER).status_code == 403


def test_health_needs_no_key(index: Index) -> None:
    answer = index.ask("GET", "/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "Ok"})


def test_metrics_say_how_each_centre_stands_and_nothing_of_patients(index: Index) -> None:
    index.post([study(1), study(2)])
    send(index, "000", state="failed", waiting=12, problems=["XQZ"])
    index.studies(patient="jose", study_iuid="1.2.840.1")
    index.ask("DELETE", "/api/v1/register/1.2.840.2", WRITER)
    index.ask("GET", "/XQZPATIENT")
    text = index.ask("GET", "/metrics").text
    for line in (
        'central_index_center_state{center="000",state="failed"} 1.0',
        'central_index_center_state{center="000",state="ok"} 0.0',
        'central_index_center_state{center="111",state="unknown"} 1.0',
        'central_index_center_studies{center="000"} 1.0',
        'central_index_center_waiting{center="000"} 12.0',
        'central_index_center_pass_missing{center="000"} 0.0',
        "central_index_keys_usable 1.0",
        'central_index_requests_total{method="DELETE",route="/api/v1/register/{study_iuid:path}",status="200"}',
    ):
        assert f"{line}\n" in text or f"{line} " in text, text
    for never in ("XQZ", "1.2.840", "26267267", "jose", "JOS", READER, WRITER):
        assert never not in text


def test_who_scrapes_sees_a_file_of_keys_that_broke(index: Index) -> None:
    """Though nobody uses a key."""
    assert "central_index_keys_usable 1.0" in index.ask("GET", "/metrics").text
    (index.directory / "keys.json").write_text('{"centers": {')
    for _ in range(3):
        assert "central_index_keys_usable 0.0" in index.ask("GET", "/metrics").text
    assert index.log.count("The file of keys can't be used") == 1
    (index.directory / "keys.json").unlink()
    assert "central_index_keys_usable 0.0" in index.ask("GET", "/metrics").text
    index.write_keys({**KEYS, "centers": {**KEYS["centers"], "222": "key-of-centre-222"}})
    text = index.ask("GET", "/metrics").text
    assert "central_index_keys_usable 1.0" in text
    assert 'central_index_center_studies{center="222"} 0.0' in index.ask("GET", "/metrics").text
    assert "The file of keys can be used again." in index.log


def test_metrics_say_what_the_page_says(index: Index) -> None:
    index.post([study(1), study(2), study(3)])
    old = time.time() - 7 * 86_400
    index.execute(f"UPDATE studies SET first_received_at = {old - 1} WHERE study_pk = 2")
    differing = {"at": "2026-11-28T01:00:00Z", "compared": 9, "missing": 4, "stale": 5, "extra": 6, "kept": 7}
    send(
        index, "000", behind_seconds=7.5, waiting=3, parked=1, last_pass=differing,
        program='1.0 "new"\\x\n2',
    )  # fmt: skip
    send(index, "111", last_pass=None, program=None)
    found = {one["center"]: one for one in centers(index)}
    text = index.ask("GET", "/metrics").text
    said = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("central_index_center_"))

    def value(name: str, center: str) -> float | None:
        text = said.get(f'central_index_center_{name}{{center="{center}"}}')
        return float(text) if text is not None else None

    one = found["000"]
    assert (
        value("last_report_timestamp_seconds", "000")
        == datetime.fromisoformat(one["reported_at"]).timestamp()
    )
    assert value("last_pass_timestamp_seconds", "000") == 1_795_827_600
    assert value("studies_today", "000") == one["today"] == 2
    assert value("studies_week_before", "000") == one["week_before"]
    assert one["week_before"] == 1 or time.localtime().tm_hour == 0
    for name in ("missing", "stale", "extra"):
        assert value(f"pass_{name}", "000") == differing[name]
    for name in ("behind_seconds", "waiting", "parked", "studies"):
        assert value(name, "000") == one[name]
    # Nothing in a label ends it.
    assert said['central_index_center_info{center="000",version="1.0 \\"new\\"\\\\x\\n2"}'] == "1.0"
    # What a centre didn't say isn't there.
    assert value("last_pass_timestamp_seconds", "111") is None
    assert 'central_index_center_info{center="111"' not in text
    assert value("last_report_timestamp_seconds", "111") is not None


@pytest.mark.parametrize("at", ["yesterday", "", "2026-11-28", "2026-11-28T01:00:00", "9" * 40, None])
def test_a_wrong_moment_of_a_centre_breaks_no_metrics(index: Index, at: str | None) -> None:
    send(index, "000", last_pass={"at": at, "missing": 1})
    answer = index.ask("GET", "/metrics")
    assert answer.status_code == 200
    assert 'central_index_center_pass_missing{center="000"} 1.0' in answer.text
    assert "last_pass_timestamp_seconds{" not in answer.text


@pytest.mark.parametrize("program", ["\ud800", "\0", "\u2028", "é" * 64])
def test_a_wrong_version_of_a_centre_breaks_no_metrics(index: Index, program: str) -> None:
    content = json.dumps(report(program=program))
    answer = index.ask("POST", "/api/v1/register/report", WRITER, data=content)
    assert answer.status_code in (200, 422)
    assert index.ask("GET", "/metrics").status_code == 200


def test_unusable_keys_are_said_once(index: Index) -> None:
    # The test before may have left them so.
    index.post(study())
    (index.directory / "keys.json").write_text('{"centers": {')
    for _ in range(3):
        assert index.post(study()).status_code == 201
    assert index.log.count("The file of keys can't be used") == 1
    assert "central_index_keys_usable 0.0" in index.ask("GET", "/metrics").text
    index.write_keys(KEYS)
    index.post(study())
    assert "The file of keys can be used again." in index.log
    assert WRITER not in index.log

"""How the region stands, for who runs it: centres, health, metrics; never a patient."""

from __future__ import annotations

import time
from typing import Any

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


def test_unusable_keys_are_said_once(index: Index) -> None:
    (index.directory / "keys.json").write_text('{"centers": {')
    for _ in range(3):
        assert index.post(study()).status_code == 201
    assert index.log.count("The file of keys can't be used") == 1
    assert "central_index_keys_usable 0.0" in index.ask("GET", "/metrics").text
    index.write_keys(KEYS)
    index.post(study())
    assert "The file of keys can be used again." in index.log
    assert WRITER not in index.log

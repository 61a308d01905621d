"""What a centre says of itself, and what it learns by that."""

from __future__ import annotations

from typing import Any

import pytest

from tests.central.conftest import KEYS, READER, WRITER, Index, study

AT = 1_795_638_845_123_456


def report(at: int = AT, **values: Any) -> dict[str, Any]:
    """As CONVERGENCE has it."""
    return {
        "at": at, "center": "000", "program": "1.0.0", "state": "ok", "problems": [], "behind_seconds": 0.4,
        "waiting": 0, "parked": 0, "last_delivery": "2026-11-28T02:10:00Z",
        "last_pass": {"at": "2026-11-28T01:00:00Z", "compared": 0, "missing": 0, "stale": 0, "extra": 0, "kept": 0},
        **values,
    }  # fmt: skip


def send(index: Index, content: Any, key: str | None = WRITER) -> tuple[int, dict[str, Any]]:
    answer = index.ask("POST", "/api/v1/register/report", key, json=content)
    return answer.status_code, answer.json()


def said(previous: int | None, highest: int | None) -> tuple[int, dict[str, Any]]:
    return 200, {"status": "Ok", "previous": previous, "highest": highest}


def store(index: Index, version: int, number: int = 1) -> None:
    index.ask("POST", "/api/v1/register", WRITER, json=study(number), headers={"Study-Version": str(version)})


def test_it_answers_the_report_before_and_the_highest_version(index: Index) -> None:
    assert send(index, report(AT)) == said(None, None)
    store(index, 500)
    assert send(index, report(AT + 1)) == said(AT, 500)
    store(index, 400, 2)
    assert send(index, report(AT + 2)) == said(AT + 1, 500)
    index.ask("DELETE", "/api/v1/register/1.2.840.1", WRITER, headers={"Study-Version": "700"})
    assert send(index, report(AT + 3)) == said(AT + 2, 700)


def test_an_older_report_that_comes_late_doesnt_go_back(index: Index) -> None:
    send(index, report(AT + 5))
    assert send(index, report(AT, state="failed")) == said(AT + 5, None)
    assert send(index, report(AT + 6)) == said(AT + 5, None)


def test_an_index_that_went_back_in_time_shows_it(index: Index) -> None:
    store(index, 500)
    send(index, report(AT))
    index.stop()
    backup = index.backup()
    index.start()
    store(index, 600, 2)
    send(index, report(AT + 60_000_000))
    index.stop()
    index.restore(backup)
    index.start()
    assert send(index, report(AT + 120_000_000)) == said(AT, 500)


def test_reports_are_each_centres_own(index: Index) -> None:
    send(index, report())
    store(index, 500)
    assert send(index, report(center="111"), KEYS["centers"]["111"]) == said(None, None)
    assert send(index, report(center="111"))[0] == 403
    for key, status in ((None, 401), ("wrong", 401), (READER, 403)):
        assert send(index, report(), key)[0] == status
    assert send(index, report(AT + 1)) == said(AT, 500)


@pytest.mark.parametrize(
    "values",
    [
        {"at": 0}, {"at": 2**63}, {"at": "1"}, {"at": None}, {"state": "well"}, {"problems": "x"}, {"problems": [1]},
        {"problems": ["x"] * 101}, {"problems": ["x" * 1001]}, {"behind_seconds": -1}, {"waiting": -1},
        {"parked": 1.5}, {"last_pass": 1}, {"last_pass": {"missing": -1}}, {"program": "x" * 65}, {"center": ""},
    ],
)  # fmt: skip
def test_a_wrong_report_is_422(shared_index: Index, values: dict[str, Any]) -> None:
    assert send(shared_index, report(**values))[0] == 422
    assert send(shared_index, [report()])[0] == 422


def test_what_isnt_known_may_be_absent_and_what_is_new_is_let_pass(index: Index) -> None:
    values = {"at": AT, "center": "000", "state": "warning", "problems": ["paused"], "of_tomorrow": {"x": 1}}
    assert send(index, values) == said(None, None)
    absent = dict.fromkeys(("behind_seconds", "last_delivery", "last_pass", "program", "waiting", "parked"))
    assert send(index, report(AT + 1, **absent)) == said(AT, None)

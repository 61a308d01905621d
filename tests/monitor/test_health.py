"""What is wrong, how bad it is, and how far behind: judged from what was told."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from cdc_indexer.delivery._meaning import classify
from cdc_indexer.flow.observer import Condition, Source
from cdc_indexer.flow.verdict import Gate
from cdc_indexer.jobs.lag import Lag
from cdc_indexer.model.errors import StorageError
from cdc_indexer.model.outcome import Kind, Refusal
from cdc_indexer.model.position import Position
from cdc_indexer.monitor.causes import Cause
from cdc_indexer.monitor.health import Health, held_cause
from tests.monitor.conftest import sample

NOON = datetime(2026, 3, 1, 12)


def seconds(count: float) -> datetime:
    return NOON + timedelta(seconds=count)


def at(offset: int) -> Position:
    return Position("bin.000001", offset)


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (200, Cause.KEY_REFUSED),
        (401, Cause.KEY_REFUSED),
        (403, Cause.KEY_REFUSED),
        (404, Cause.WRONG_ADDRESS),
        (405, Cause.WRONG_ADDRESS),
        (301, Cause.REDIRECT),
        (308, Cause.REDIRECT),
        (407, Cause.NOT_THE_INDEX),
        (451, Cause.REFUSED),
    ],
)
def test_why_everything_is_held(status: int, cause: Cause) -> None:
    outcome = classify("POST", status, b'{"status": "Error"}', None, 0.0)
    assert outcome.kind is Kind.HELD
    assert held_cause(outcome.refusal) is cause
    assert cause.is_held


def test_why_everything_is_held_without_an_answer() -> None:
    causes = {refusal: held_cause(refusal) for refusal in Refusal}
    assert causes[Refusal.CERTIFICATE] is Cause.CERTIFICATE
    assert causes[Refusal.STRANGER] is Cause.NOT_THE_INDEX
    assert causes[Refusal.REJECTS_ALL] is Cause.REJECTS_ALL
    assert all(cause.is_held for cause in causes.values())


def test_the_worst_comes_first_and_what_is_mended_goes() -> None:
    now = [1000.0]
    health = Health(clock=lambda: now[0], monotonic=lambda: 0.0)
    assert [one.cause for one in health.problems()] == [Cause.STARTING]
    health.source(Source.UP, "")
    assert health.problems() == []
    assert health.healthy
    health.gate(Gate.AWAY, "it is away")
    health.sampled(sample(parked=2))
    health.source(Source.AWAY, "The database is away")
    health.storage(StorageError("the disk is full"))
    causes = [one.cause for one in health.problems()]
    assert causes == [Cause.STORAGE, Cause.DATABASE_AWAY, Cause.INDEX_AWAY, Cause.PARKED]
    assert health.problems()[0].message == "The disk is full."
    now[0] = 1060.0
    health.gate(Gate.AWAY, "it is away")
    health.source(Source.SCHEMA, "the view is gone")
    since = {one.cause: one.since for one in health.problems()}
    assert since[Cause.INDEX_AWAY] == 1000, "since it began, not since it was said again"
    assert since[Cause.SCHEMA] == 1060
    health.source(Source.UP, "")
    health.storage(None)
    health.gate(Gate.OPEN, "")
    assert [one.cause for one in health.problems()] == [Cause.PARKED]
    assert health.healthy, "parked studies alone are no fault of the service"
    assert health.last_error == (1060.0, "The view is gone.")


def test_a_pause_is_no_error() -> None:
    health = Health()
    health.source(Source.UP, "")
    health.condition(Condition.PAUSED, "Paused by root")
    health.condition(Condition.QUIET, "No new study for 9 hours")
    assert [one.cause for one in health.problems()] == [Cause.PAUSED, Cause.QUIET]
    assert health.last_error is None


def test_a_database_that_is_away_is_said_once() -> None:
    health = Health()
    health.source(Source.UP, "")
    health.verification("the view can't be read")
    assert [one.cause for one in health.problems()] == [Cause.VERIFICATION]
    health.source(Source.AWAY, "it is away")
    assert [one.cause for one in health.problems()] == [Cause.DATABASE_AWAY]
    health.source(Source.UP, "")
    assert not health.healthy, "until the view was read"
    health.verification(None)
    assert health.healthy


def test_held_by_the_key_then_by_the_address() -> None:
    health = Health()
    health.source(Source.UP, "")
    health.gate(Gate.HELD, "the key", Refusal.KEY)
    health.gate(Gate.HELD, "the address", Refusal.ADDRESS)
    assert [one.cause for one in health.problems()] == [Cause.WRONG_ADDRESS]


# --- how far behind --------------------------------------------------------------------------------------


def test_a_row_counts_until_the_position_has_passed_its_transaction() -> None:
    lag = Lag()
    assert lag.seconds(at(100), seconds(0), 99) == 0
    lag.rows(seconds(0))
    assert lag.seconds(at(100), seconds(4), 0) == 4, "in the middle of a transaction"
    lag.end(at(200), seconds(0))
    lag.rows(seconds(5))
    lag.end(at(300), seconds(5))
    assert lag.seconds(at(100), seconds(9), 99) == 9
    assert lag.seconds(at(200), seconds(9), 99) == 4
    assert lag.seconds(at(300), seconds(9), 99) == 0


def test_what_isnt_ours_counts_only_while_the_stream_brings_more() -> None:
    lag = Lag()
    lag.end(at(200), seconds(0))
    assert lag.seconds(at(200), seconds(600), 0.1) == 599, "a backlog is being read"
    assert lag.seconds(at(200), seconds(600), 5.0) == 0, "the server has no more"
    lag.end(at(300), seconds(600))
    lag.quiet()
    assert lag.seconds(at(300), seconds(660), 0.1) == 0
    lag.end(at(400), seconds(601))
    assert lag.seconds(at(400), seconds(600), 0.1) == 0, "never negative"


def test_it_stays_small_whatever_the_backlog() -> None:
    lag = Lag()
    for number in range(50_000):
        lag.rows(seconds(number / 1000))
        lag.end(at(number), seconds(0))
    assert len(lag._ends) <= 51
    assert lag.seconds(at(0), seconds(60), 0) == 60
    assert lag.seconds(at(25_500), seconds(60), 0) == pytest.approx(60 - 25, abs=1)
    lag.restart()
    assert lag.seconds(None, seconds(60), 99) == 0

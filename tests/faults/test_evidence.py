"""Whose fault is it? The index fails on some, on all, or somebody else answers: `run` on a real server, from outside."""

from __future__ import annotations

import time

import pytest

from tests.faults.case import Case, MakeCase
from tests.faults.test_index import AWAY, BACK, HELD
from tests.indexer import wait_until
from tests.pacs import Pacs, new_uid
from tests.receiver import Answer

NGINX = Answer(400, b"<html><title>400 The plain HTTP request was sent to HTTPS port</title></html>")
PORTAL = Answer(200, b"<!DOCTYPE html><html><head><title>Login</title></head></html>")


def test_a_gateway_that_rejects_everything_parks_nothing(case: Case) -> None:
    """400 to POST and GET alike: 200 of 200 studies were parked."""
    case.receiver.always(NGINX, gets=True)
    case.fault()
    case.start()
    case.store(20)
    case.says(HELD)
    time.sleep(3)
    assert case.parked == set()
    assert len({uid for entry in case.receiver.sent() for uid in entry.study_iuids}) > 4
    case.receiver.normal()
    case.says(BACK, 60)
    case.finish()
    assert case.parked == set()


def test_what_was_parked_before_a_hold_goes_out_by_itself(case: Case) -> None:
    """The address answers a GET well, so that three are parked before it is seen that nothing is taken at all."""
    case.receiver.always(Answer(422, {"detail": "no"}))
    case.fault()
    case.start()
    case.store(15)
    case.says(HELD)
    assert len(case.parked) <= 3
    assert "parked" in case.indexer.log
    time.sleep(1)
    case.receiver.normal()
    case.arrives(case.committed, 60)
    wait_until(lambda: not case.parked, 20, "an empty parked store")
    case.finish()


def test_a_single_study_shows_that_the_index_is_away(case: Case) -> None:
    """A small centre never has eight studies waiting."""
    case.start()
    case.store()
    case.arrives(case.committed)
    case.receiver.always(Answer(500, b"out of order"))
    case.fault()
    began = time.monotonic()
    case.store()
    case.says(AWAY, 10)
    assert time.monotonic() - began < 10
    # Its page is written every second.
    wait_until(lambda: case.indexer.run("status").returncode == 1, 5, "status says so")
    case.receiver.normal()
    case.says(BACK, 60)
    case.finish()
    assert case.parked == set()


def test_until_caught_up_ends_when_the_index_fails_on_all(case: Case) -> None:
    case.store()
    case.receiver.always(Answer(500, b"out of order"))
    case.fault()
    began = time.monotonic()
    done = case.indexer.run("run", "--until-caught-up")
    assert done.returncode == 1
    assert time.monotonic() - began < 40
    case.receiver.normal()
    assert case.indexer.run("run", "--until-caught-up").returncode == 0
    case.start()
    case.finish()


@pytest.mark.parametrize(
    ("count", "answer"), [(12, Answer(500, b"a stack trace")), (3, Answer(403, b"not this one"))]
)
def test_studies_on_which_alone_it_fails_hold_up_nobody(
    pacs: Pacs, make_case: MakeCase, count: int, answer: Answer
) -> None:
    """0 of 30 live studies came through in 190 s."""
    case = make_case(pacs, delivery={"give_up_seconds": 8, "settle_seconds": 0.2})
    case.start()
    case.store()
    case.arrives(case.committed)
    # Told before they are stored: the first would be at the index, taken, before the rule is.
    odd = [new_uid() for _ in range(count)]
    case.receiver.for_studies(odd, answer)
    case.fault(count)
    pacs.store_studies(odd)
    case.committed += odd
    time.sleep(5)
    seconds = []
    for _ in range(15):
        began = time.monotonic()
        stored = case.store()
        case.arrives(stored, 20)
        seconds.append(time.monotonic() - began)
        time.sleep(0.5)
    seconds.sort()
    assert seconds[7] < 0.5, seconds
    assert seconds[-1] < 5, seconds
    wait_until(lambda: case.parked == set(odd), 60, "parked by wall time")
    case.receiver.normal()
    assert case.indexer.run("parked", "retry", "--all").returncode == 0
    wait_until(lambda: not case.parked, what="an empty parked store")
    case.finish()


@pytest.mark.parametrize("answer", [PORTAL, Answer(204, b"")], ids=["a page", "nothing"])
def test_a_portal_settles_nothing(case: Case, answer: Answer) -> None:
    case.start()
    case.store(3)
    case.arrives(case.committed)
    # The receiver would count what it is told to answer with 2xx as taken.
    before = len(case.receiver.sent())
    case.receiver.always(answer)
    case.fault()
    stored = case.store(3)
    case.says(HELD)
    case.says("portal")
    time.sleep(0.5)
    tried = len(case.receiver.sent()) - before
    case.receiver.normal()
    case.says(BACK, 60)
    wait_until(
        lambda: (
            {
                uid
                for entry in case.receiver.sent()[before + tried :]
                if entry.status == 201
                for uid in entry.study_iuids
            }
            >= set(stored)
        ),
        30,
        "sent again",
    )
    case.bound += tried
    case.finish()

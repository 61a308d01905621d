"""An index that can more, over real sockets: arrays for who asks for them, versions, and nothing new for who doesn't."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cdc_indexer.delivery.features import Known
from cdc_indexer.delivery.webservice import Request, Webservice
from cdc_indexer.flow.verdict import Gate
from cdc_indexer.model.outcome import Kind
from cdc_indexer.model.version import FAR_AHEAD
from tests.indexer import KEY
from tests.receiver import Answer, Entry, Receiver
from tests.sending import Sender, settings

Start = Callable[..., Sender]

MANY = [f"1.2.{number}" for number in range(250)]
TAKES_BATCHES = {"Index-Features": "reports, batch=500"}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(KEY) as one:
        yield one


@pytest.fixture
def make(tmp_path: Path, receiver: Receiver) -> Iterator[Start]:
    """A sender that isn't started yet, so that studies can be made to wait."""
    made: list[Sender] = []

    def start(**options: Any) -> Sender:
        made.append(Sender.start(tmp_path, receiver, **{"batch_size": "auto", "concurrency": 4, **options}))
        return made[-1]

    yield start
    for sender in made:
        sender.dispatcher.stop()


def taking(headers: dict[str, str] = TAKES_BATCHES) -> Callable[[Entry], Answer]:
    """Takes arrays, with a result for each."""

    def answer(entry: Entry) -> Answer:
        if isinstance(entry.json, list):
            results = [{"status": 201} for _ in entry.json]
            return Answer(207, {"results": results}, headers)
        return Answer(201, {"status": "Ok"}, headers)

    return answer


def arrays(receiver: Receiver) -> list[int]:
    """How many studies each request had; 0 for an object."""
    return [
        len(entry.json) if isinstance(entry.json, list) else 0
        for entry in receiver.entries()
        if entry.method == "POST"
    ]


def all_accepted(sender: Sender, uids: list[str], seconds: float = 20.0) -> None:
    sender.wait(lambda: sender.of(Kind.ACCEPTED) == set(uids), "all accepted", seconds)


def test_what_waits_goes_together_to_an_index_that_says_so(make: Start, receiver: Receiver) -> None:
    receiver.answer_with(taking())
    sender = make(known=Known(features={"batch": 500}))
    sender.send(*MANY)
    sender.dispatcher.start()
    all_accepted(sender, MANY)
    sizes = arrays(receiver)
    assert max(sizes) == 100, "never more than a hundred, whatever it takes"
    assert len(sizes) <= 8
    (array, *_) = (entry.json for entry in receiver.entries() if isinstance(entry.json, list))
    assert set(array[0]) == {"study_iuid", "idempotency_key"}
    # What doesn't wait goes as it is, at once.
    sender.send("single")
    all_accepted(sender, [*MANY, "single"])
    assert arrays(receiver)[-1] == 0
    assert receiver.accepted()[-1].json == {"study_iuid": "single"}


def test_no_more_than_the_index_says(make: Start, receiver: Receiver) -> None:
    receiver.answer_with(taking({"Index-Features": "batch=7"}))
    sender = make(known=Known(features={"batch": 7}))
    sender.send(*MANY[:50])
    sender.dispatcher.start()
    all_accepted(sender, MANY[:50])
    assert max(arrays(receiver)) == 7


def test_without_the_feature_every_request_is_what_it_was(make: Start, receiver: Receiver) -> None:
    sender = make()
    sender.send(*MANY)
    sender.dispatcher.start()
    all_accepted(sender, MANY)
    assert set(arrays(receiver)) == {0}
    assert all("study-version" not in entry.headers for entry in receiver.entries())


def test_the_index_is_asked_before_the_first_post(make: Start, receiver: Receiver) -> None:
    receiver.always(Answer(200, [], TAKES_BATCHES, delay_seconds=0.3), gets=True)
    receiver.answer_with(taking())
    sender = make(ask_first=True)
    sender.send(*MANY)
    sender.dispatcher.start()
    all_accepted(sender, MANY)
    question, *posts = receiver.entries()
    assert question.method == "GET"
    assert question.ended_at is not None
    assert all(entry.method == "POST" and entry.time >= question.ended_at for entry in posts)
    # What was taken from the queue before the answer came goes alone, the rest together.
    assert max(arrays(receiver)) > 50


def test_an_index_that_cannot_be_asked_gets_the_studies(make: Start, receiver: Receiver) -> None:
    receiver.always(Answer(404, b""), gets=True)
    receiver.answer_with(lambda entry: Answer(201))
    sender = make(ask_first=True)
    sender.send(*MANY[:20])
    sender.dispatcher.start()
    all_accepted(sender, MANY[:20])
    assert sender.changes == []


@pytest.mark.parametrize("status", [400, 404, 405, 413, 415, 422, 501])
def test_an_array_that_is_refused_as_such_goes_as_singles_and_parks_nobody(
    make: Start, receiver: Receiver, status: int
) -> None:
    receiver.answer_with(
        lambda entry: Answer(status, b"no arrays") if isinstance(entry.json, list) else Answer(201)
    )
    known = Known(features={"batch": 500})
    sender = make(known=known, concurrency=2)
    sender.send(*MANY)
    sender.dispatcher.start()
    all_accepted(sender, MANY)
    assert sender.changes == []
    assert known.largest_batch in (1, 100)
    assert sum(size > 0 for size in arrays(receiver)) <= 4


@pytest.mark.parametrize("status", [401, 503])
def test_an_array_that_is_refused_for_all_closes_the_gate(
    make: Start, receiver: Receiver, status: int
) -> None:
    receiver.always(Answer(status, b"", {"Retry-After": "0"}))
    sender = make(known=Known(features={"batch": 500}))
    sender.send(*MANY)
    sender.dispatcher.start()
    sender.wait(lambda: sender.dispatcher.gate is not Gate.OPEN, "closed")
    receiver.normal()
    all_accepted(sender, MANY, 40)


def test_each_study_of_an_array_has_its_own_status_and_version(make: Start, receiver: Receiver) -> None:
    odd = {"1.2.3": {"status": 422}, "1.2.5": {"status": 409, "version": 77}}

    def answer(entry: Entry) -> Answer:
        results = [odd.get(one["study_iuid"], {"status": 201}) for one in entry.json]
        return Answer(207, {"results": results}, TAKES_BATCHES)

    receiver.answer_with(answer)
    sender = make(known=Known(features={"batch": 500, "versions": 1}))
    sender.send(*MANY[:20], version=12)
    sender.dispatcher.start()
    sender.wait(lambda: len(sender.outcomes) == 20, "all judged")
    assert len(sender.of(Kind.ACCEPTED)) == 18
    assert sender.of(Kind.REJECTED) == {"1.2.3"}
    assert sender.of(Kind.STALE) == {"1.2.5"}
    assert sender.outcomes["1.2.5"].version == 77
    (array,) = [entry.json for entry in receiver.entries()]
    assert {element["version"] for element in array} == {12}


def test_features_are_learned_from_answers_and_survive_a_portal(tmp_path: Path, receiver: Receiver) -> None:
    known = Known()
    webservice = Webservice(settings(tmp_path, receiver.url), known)
    try:
        for status, body, features in [
            (201, {"status": "Ok"}, "batch=20"),
            (409, {"status": "Conflict"}, "batch=21"),
            (200, b"<html>Login</html>", "batch=22"),
            (200, {"status": "Error"}, "batch=23"),
            (500, b"", "batch=24"),
            (422, b"", "batch=25"),
        ]:
            receiver.next(1, Answer(status, body, {"Index-Features": features}))
            webservice.exchange(Request(b"{}", "key"))
        assert known.features == {"batch": 21}
        # A proxy that strips headers: nine answers without aren't enough.
        for _ in range(9):
            webservice.exchange(Request(b"{}", "key"))
        assert known.features == {"batch": 21}
        webservice.exchange(Request(b"{}", "key"))
        assert known.features == {}
    finally:
        webservice.close()


FAR = int(time.time() * 1e6) + FAR_AHEAD

# --- versions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b'{"study_iuid": "1.2"}', None])
def test_a_version_goes_in_a_header(tmp_path: Path, receiver: Receiver, body: bytes | None) -> None:
    webservice = Webservice(settings(tmp_path, receiver.url))
    try:
        webservice.exchange(Request(body, "key", "1.2", version=1795638845123456))
        webservice.exchange(Request(body, "key", "1.2"))
    finally:
        webservice.close()
    first, second = receiver.entries()
    assert first.headers["study-version"] == "1795638845123456"
    assert "study-version" not in second.headers


@pytest.mark.parametrize(
    ("version", "body", "kind", "newer"),
    [
        (5, {"status": "Stale", "version": 9}, Kind.STALE, 9),
        (None, {"status": "stale", "version": 9}, Kind.STALE, 9),
        (5, {"status": "Stale"}, Kind.STALE, None),
        (5, {"status": "Stale", "version": "9"}, Kind.STALE, None),
        (5, {"status": "Stale", "version": True}, Kind.STALE, None),
        (5, {"status": "Stale", "version": -1}, Kind.STALE, None),
        # With versions every 409 is that.
        (5, b"conflict", Kind.STALE, None),
        (None, b"conflict", Kind.ALREADY_THERE, None),
        # A hundred years ahead: what followed it would be so too. A year is a clock that is wrong.
        (5, {"status": "Stale", "version": FAR - 86_400_000_000}, Kind.STALE, FAR - 86_400_000_000),
        (5, {"status": "Stale", "version": FAR + 86_400_000_000}, Kind.HELD, None),
        (5, {"status": "Stale", "version": 2**70}, Kind.HELD, None),
        (None, {"detail": "exists", "version": 9}, Kind.ALREADY_THERE, None),
    ],
    # Of their own: the time of day in a name would be another one in each process that runs tests.
    ids=range(12),
)
def test_a_newer_version_at_the_index(
    tmp_path: Path, receiver: Receiver, version: int | None, body: Any, kind: Kind, newer: int | None
) -> None:
    receiver.always(Answer(409, body))
    webservice = Webservice(settings(tmp_path, receiver.url))
    try:
        outcome = webservice.exchange(Request(b"{}", "key", version=version))
    finally:
        webservice.close()
    assert (outcome.kind, outcome.version) == (kind, newer)

"""What sends and a real central index: what one study gets and what everybody gets, over real sockets."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cdc_indexer.delivery._meaning import classify
from cdc_indexer.delivery.features import Known
from cdc_indexer.delivery.webservice import Webservice
from cdc_indexer.flow.verdict import Gate
from cdc_indexer.model.outcome import Kind, Outcome, Refusal
from tests.indexer import KEY
from tests.receiver import OK, Answer, Entry, Receiver
from tests.sending import Sender, settings

Start = Callable[..., Sender]


@pytest.fixture
def start(tmp_path: Path, receiver: Receiver) -> Iterator[Start]:
    started: list[Sender] = []

    def make(**options: Any) -> Sender:
        sender = Sender.start(tmp_path, receiver, **options)
        sender.dispatcher.start()
        started.append(sender)
        return sender

    yield make
    for sender in started:
        sender.dispatcher.stop()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(KEY) as one:
        yield one


class _ConnectsLate(Webservice):
    """Is connected when the rest has ended."""

    begun, go_on = threading.Event(), threading.Event()

    def connect(self) -> Outcome | None:
        self.begun.set()
        assert self.go_on.wait(20)
        return super().connect()


def test_a_connection_that_is_made_when_all_ends_is_closed(tmp_path: Path, receiver: Receiver) -> None:
    config = settings(tmp_path, receiver.url)
    client = _ConnectsLate(config, Known())
    sender = Sender.start(tmp_path, receiver, make_client=lambda: client)
    sender.dispatcher.start()
    sender.send("1.2.3")
    assert client.begun.wait(20)
    sender.dispatcher.stop()
    (thread,) = [one for one in threading.enumerate() if one.name == "connecting"]
    client.go_on.set()
    thread.join(20)
    assert client.fileno() == -1


MANY = [f"1.2.{number}" for number in range(30)]
NGINX = Answer(400, b"<html><title>400 The SSL certificate error</title></html>")


def posts(receiver: Receiver, uid: str) -> int:
    return sum(uid in entry.study_iuids for entry in receiver.entries())


def test_a_gateway_that_rejects_everything_parks_nothing(start: Start, receiver: Receiver) -> None:
    """Item 30: 400 to POST and GET."""
    receiver.always(NGINX, gets=True)
    sender = start()
    sender.send(*MANY)
    sender.closes(Gate.HELD)
    time.sleep(1.5)
    assert sender.outcomes == {}
    assert sender.changes[0].refusal is Refusal.REJECTS_ALL
    tried = {uid for uid in MANY if posts(receiver, uid)}
    assert len(tried) > 8, "each time another one"
    # At any moment: also between a POST that it rejects and the GET that asks what that means.
    receiver.normal()
    sender.wait(lambda: sender.of(Kind.ACCEPTED) == set(MANY), "all accepted", 40)


def test_a_gateway_that_recovers_between_a_post_and_its_get_parks_nothing(
    start: Start, receiver: Receiver
) -> None:
    receiver.always(NGINX, gets=True)
    sender = start()
    sender.send("a")
    sender.closes(Gate.HELD)

    def last(entry: Entry) -> Answer:
        receiver.normal()
        return NGINX

    receiver.answer_with(last)
    sender.wait(lambda: sender.of(Kind.ACCEPTED) == {"a"}, "accepted")
    assert [entry.method for entry in receiver.entries()][-3:] == ["POST", "GET", "POST"]


def test_one_rejected_study_is_parked_after_one_post_and_one_question(
    start: Start, receiver: Receiver
) -> None:
    receiver.for_studies(["odd"], Answer(422, {"detail": "no"}))
    sender = start()
    sender.send("odd")
    sender.wait(lambda: sender.of(Kind.REJECTED) == {"odd"}, "parked")
    assert [entry.method for entry in receiver.entries()] == ["POST", "GET"]
    sender.send("fine", "odd too")
    receiver.for_studies(["odd too"], Answer(400, {"detail": "no"}))
    sender.wait(lambda: len(sender.outcomes) >= 2, "both")
    assert sender.changes == []


def test_no_more_than_three_are_parked_because_a_get_is_answered(start: Start, receiver: Receiver) -> None:
    receiver.always(Answer(400, {"detail": "no"}))
    sender = start()
    sender.send(*MANY)
    sender.closes(Gate.HELD)
    time.sleep(0.5)
    assert len(sender.of(Kind.REJECTED)) == 3
    assert sender.changes[0].unpark_seconds >= 60


def test_a_single_study_is_enough_to_see_that_the_index_is_away(start: Start, receiver: Receiver) -> None:
    """Item 4."""
    sender = start()
    sender.send("fine")
    sender.wait(lambda: sender.of(Kind.ACCEPTED), "accepted")
    receiver.always(Answer(500, b"out of order"))
    began = time.monotonic()
    sender.send("only")
    sender.closes(Gate.AWAY)
    assert time.monotonic() - began < 6
    receiver.normal()
    sender.wait(lambda: "only" in sender.of(Kind.ACCEPTED), "accepted", 40)
    assert sender.changes[-1].gate is Gate.OPEN


@pytest.mark.parametrize(("count", "answer"), [(12, Answer(500, b"a stack trace")), (3, Answer(403, b"no"))])
def test_odd_studies_hold_up_nobody(start: Start, receiver: Receiver, count: int, answer: Answer) -> None:
    """Item 5: 12 on which the index fails, 3 that it refuses, and a live study now and then."""
    odd = [f"odd{number}" for number in range(count)]
    receiver.for_studies(odd, answer)
    sender = start(give_up_seconds=6.0)
    sender.send(*odd)
    sender.wait(lambda: all(posts(receiver, uid) for uid in odd[:2]), "they fail")
    # Nothing else comes for a while, so that their pauses grow.
    time.sleep(4)
    for number in range(20):
        sender.send(f"live{number}")
        time.sleep(0.4)
    sender.wait(lambda: len(sender.of(Kind.ACCEPTED)) == 20, "the live ones")
    live = sorted(seconds for uid, seconds in sender.seconds.items() if uid.startswith("live"))
    assert live[10] < 0.2, live
    assert live[-1] < 2.0, live
    sender.wait(lambda: sender.of(Kind.REJECTED), "parked by wall time", 30)


# --- somebody else in its place --------------------------------------------------------------------------

PORTAL = b"<!DOCTYPE html>\n<html><head><title>Login</title></head><body>Please log in</body></html>"
ERROR = '{"status": "Error"}'

STRANGERS = {
    "a page": Answer(200, PORTAL, {"Content-Type": "text/html"}),
    "a page that says JSON": Answer(200, PORTAL),
    "a warning of PHP": Answer(200, b'<br />\n<b>Warning</b>: mysqli in x.php\n{"status": "Ok"}'),
    "a firewall": Answer(200, b"<html><head><title>Request Rejected</title></head></html>"),
}
AFTER_JSON = {
    "nothing": Answer(204, b""),
    "words": Answer(200, b"Welcome to the hospital's network"),
}
ERRORS = {
    "a byte order mark": b"\xef\xbb\xbf" + ERROR.encode(),
    "UTF-16": ERROR.encode("utf-16"),
    "UTF-16 without a mark": ERROR.encode("utf-16-be"),
    "compressed": gzip.compress(ERROR.encode()),
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_a_page_is_no_acceptance(start: Start, receiver: Receiver, kind: str) -> None:
    """Item 6. The receiver itself would count it as taken."""
    receiver.always(STRANGERS[kind], gets=True)
    sender = start()
    sender.send(*MANY)
    sender.closes(Gate.HELD)
    assert sender.changes[0].refusal is Refusal.STRANGER
    assert "portal" in sender.changes[0].reason
    time.sleep(0.3)
    assert sender.outcomes == {}
    receiver.normal()
    sender.wait(lambda: sender.of(Kind.ACCEPTED) == set(MANY), "all accepted", 40)


@pytest.mark.parametrize("kind", AFTER_JSON)
def test_no_json_is_no_acceptance_where_json_had_been(start: Start, receiver: Receiver, kind: str) -> None:
    known = Known()
    sender = start(known=known)
    receiver.always(AFTER_JSON[kind])
    sender.send("a")
    sender.wait(lambda: sender.of(Kind.ACCEPTED) == {"a"}, "an index that never said JSON goes on as it is")
    receiver.always(OK)
    sender.send("b")
    sender.wait(lambda: "b" in sender.of(Kind.ACCEPTED), "b")
    assert known.json_seen
    assert sender.dispatcher.core.kept["index"]["json_seen"] is True
    receiver.always(AFTER_JSON[kind])
    sender.send("c")
    sender.closes(Gate.HELD)
    assert sender.changes[-1].refusal is Refusal.STRANGER
    receiver.normal()
    sender.wait(lambda: "c" in sender.of(Kind.ACCEPTED), "c", 40)


def test_json_under_another_content_type_is_json(start: Start, receiver: Receiver) -> None:
    receiver.always(Answer(201, {"status": "Ok"}, {"Content-Type": "text/html; charset=UTF-8"}))
    sender = start(known=Known(json_seen=True))
    sender.send(*MANY)
    sender.wait(lambda: sender.of(Kind.ACCEPTED) == set(MANY), "all accepted")
    assert sender.changes == []


@pytest.mark.parametrize("kind", ERRORS)
def test_error_is_understood_in_whatever_encoding(start: Start, receiver: Receiver, kind: str) -> None:
    """Item 29."""
    receiver.always(Answer(200, ERRORS[kind]))
    sender = start()
    sender.send("a")
    sender.closes(Gate.HELD)
    assert sender.changes[0].refusal is Refusal.KEY
    assert sender.outcomes == {}


@pytest.mark.parametrize(
    ("body", "page"),
    [
        (b"<!-- a --> <!-- b -->\n<DIV class=x>Login</DIV>", True),
        (b"Notice: undefined index\n<HTML>", True),
        (b'<?xml version="1.0"?><!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0">', True),
        (b"<ok/>", False),
        (b"<bill>1</bill>", False),
        (b"1 < 2", False),
        (b'{"detail": "<html>"}', False),
        (b'"<html>"', False),
    ],
)
def test_what_is_a_page_for_people(body: bytes, page: bool) -> None:
    outcome = classify("POST", 200, body, None, 0.0)
    assert outcome.refusal is (Refusal.STRANGER if page else None)


@pytest.mark.parametrize("part", [b" ", b"<!--", b"<!---->", b"<", b"<b", b"[", b'{"a":', b"<\n"])
def test_no_answer_takes_long_to_be_understood(part: bytes) -> None:
    """An index that isn't ours must not keep us busy with 64 KiB."""
    began = time.process_time()
    classify("POST", 200, (part * 65536)[:65536], None, 0.0, json_seen=True)
    assert time.process_time() - began < 0.5

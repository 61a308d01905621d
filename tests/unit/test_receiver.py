"""The receiver of the tests: what it says it took, it took; its faults are real ones."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.certificates import make_certificate
from tests.indexer import KEY
from tests.receiver import (
    ACCEPT_AND_RESET,
    HANG,
    OK,
    RESET,
    UNAUTHORIZED_WITH_200,
    Answer,
    Entry,
    Receiver,
)


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as one:
        one.trust_env = False
        one.headers["X-Api-Key"] = KEY
        yield one


def post(
    session: requests.Session, receiver: Receiver, study_iuid: str = "1.2.3", **options: object
) -> requests.Response:
    return session.post(receiver.url, json={"study_iuid": study_iuid}, timeout=5, **options)  # type: ignore[arg-type]


def test_what_is_accepted_is_in_the_ledger(receiver: Receiver, session: requests.Session) -> None:
    before = time.time()
    answer = session.post(
        receiver.url,
        data=json.dumps({"study_iuid": "1.2.3", "patient_name": "PEÑA^JOSÉ"}, ensure_ascii=False).encode(),
        headers={"Idempotency-Key": "k1"},
        timeout=5,
    )
    assert (answer.status_code, answer.json()) == (201, {"status": "Ok"})
    [entry] = receiver.accepted()
    assert before <= entry.time <= (entry.ended_at or 0) <= time.time()
    assert entry.answered
    assert (entry.method, entry.path, entry.status) == ("POST", "/api/v1/register", 201)
    assert entry.json == {"study_iuid": "1.2.3", "patient_name": "PEÑA^JOSÉ"}
    assert (entry.idempotency_key, entry.headers["x-api-key"]) == ("k1", KEY)
    receiver.clear()
    assert receiver.entries() == receiver.accepted() == []


def test_one_connection_serves_many_requests(receiver: Receiver) -> None:
    connection = http.client.HTTPConnection(receiver.host, receiver.port, timeout=5)
    connection.connect()
    local = connection.sock.getsockname()
    for number in range(50):
        connection.request("POST", "/", json.dumps({"study_iuid": str(number)}), {"X-Api-Key": KEY})
        assert connection.getresponse().read() == b'{"status": "Ok"}'
        assert connection.sock.getsockname() == local
    connection.close()
    assert receiver.study_iuids() == [str(number) for number in range(50)]


def test_a_request_in_small_pieces_and_two_in_one_piece(receiver: Receiver) -> None:
    body = b'{"study_iuid": "1"}'
    request = b"POST / HTTP/1.1\r\nX-Api-Key: %s\r\nContent-Length: %d\r\n\r\n%s" % (
        KEY.encode(),
        len(body),
        body,
    )
    connection = http.client.HTTPConnection(receiver.host, receiver.port, timeout=5)
    connection.connect()
    for at in range(len(request)):
        connection.sock.sendall(request[at : at + 1])
    receiver.wait_for(1)
    connection.sock.sendall(request + request)
    assert len(receiver.wait_for(3)) == 3
    connection.close()


def test_a_wrong_key(receiver: Receiver, session: requests.Session) -> None:
    assert session.get(receiver.url, timeout=5).json() == []
    session.headers["X-Api-Key"] = "other"
    answer = session.get(receiver.url, timeout=5)
    assert (answer.status_code, answer.json()) == (200, {"status": "Error"})
    assert post(session, receiver).status_code == 401
    receiver.bad_key = UNAUTHORIZED_WITH_200
    assert post(session, receiver).status_code == 200
    assert receiver.accepted() == []
    assert [entry.status for entry in receiver.entries()] == [200, 200, 401, 200]
    receiver.key = "other"
    assert post(session, receiver).status_code == 201
    assert len(receiver.accepted()) == 1


def test_answers_as_told_the_next_ones_before_all_others(
    receiver: Receiver, session: requests.Session
) -> None:
    receiver.always(Answer(503, b"", {"Retry-After": "7"}))
    receiver.for_studies(["odd"], Answer(400, {"reason": "odd"}))
    receiver.next(1, Answer(302, b"", {"Location": "http://127.0.0.1:1/"}))
    receiver.answer_with(lambda entry: Answer(207, []) if isinstance(entry.json, list) else None)
    assert post(session, receiver, "odd", allow_redirects=False).status_code == 302
    assert post(session, receiver, "odd").json() == {"reason": "odd"}
    answer = post(session, receiver, "even")
    assert (answer.status_code, answer.headers["Retry-After"], answer.content) == (503, "7", b"")
    assert session.get(receiver.url, timeout=5).status_code == 200
    batch = session.post(receiver.url, json=[{"study_iuid": "a"}, {"study_iuid": "b"}], timeout=5)
    assert batch.status_code == 207
    receiver.always(Answer(599, b"\xff"), gets=True)
    assert session.get(receiver.url, timeout=5).content == b"\xff"
    receiver.normal()
    assert post(session, receiver, "odd").status_code == 201
    assert receiver.study_iuids() == ["a", "b", "odd"]


def test_a_slow_answer_is_accepted_from_the_beginning(receiver: Receiver, session: requests.Session) -> None:
    receiver.next(1, Answer(delay_seconds=0.3))
    with pytest.raises(requests.Timeout):
        session.post(receiver.url, json={"study_iuid": "1"}, timeout=0.1)
    assert receiver.study_iuids() == ["1"]
    receiver.next(1, Answer(delay_seconds=0.3))
    started = time.monotonic()
    assert post(session, receiver, "2").status_code == 201
    assert time.monotonic() - started >= 0.3


def test_a_hang_takes_nothing(receiver: Receiver, session: requests.Session) -> None:
    receiver.next(1, HANG)
    with pytest.raises(requests.ReadTimeout):
        session.post(receiver.url, json={"study_iuid": "1.2.3"}, timeout=0.2)
    assert receiver.accepted() == []
    assert post(session, receiver).status_code == 201
    assert [(entry.status, entry.answered) for entry in receiver.entries()] == [(None, False), (201, True)]
    assert receiver.in_flight_together() == []


@pytest.mark.parametrize(("answer", "taken"), [(RESET, []), (ACCEPT_AND_RESET, ["1"])])
def test_a_reset_is_a_reset(receiver: Receiver, answer: Answer, taken: list[str]) -> None:
    receiver.next(1, answer)
    connection = http.client.HTTPConnection(receiver.host, receiver.port, timeout=5)
    connection.request("POST", "/", '{"study_iuid": "1"}', {"X-Api-Key": KEY})
    # A close with FIN would be RemoteDisconnected, which is a ConnectionResetError as well.
    with pytest.raises(ConnectionResetError) as caught:
        connection.getresponse()
    assert type(caught.value) is ConnectionResetError
    connection.close()
    assert receiver.study_iuids() == taken


def test_refuses_and_comes_back_on_the_same_port(receiver: Receiver, session: requests.Session) -> None:
    for _ in range(3):
        address = receiver.url
        assert post(session, receiver).status_code == 201
        receiver.refuse()
        with pytest.raises(requests.ConnectionError, match="refused"):
            requests.post(address, json={}, timeout=5)
        with pytest.raises(requests.ConnectionError):
            post(session, receiver)
        receiver.listen()
        receiver.listen()
        assert receiver.url == address
    assert post(session, receiver).status_code == 201


def test_waiting_ends_when_it_is_there_or_says_what_is_not(
    receiver: Receiver, session: requests.Session
) -> None:
    def later() -> None:
        for number in range(20):
            post(session, receiver, str(number))

    thread = threading.Thread(target=later)
    thread.start()
    assert len(receiver.wait_for(20)) == 20
    assert receiver.wait_for(lambda entries: any(entry.study_iuids == ["19"] for entry in entries))
    thread.join()
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"20 accepted after 0\.2 s, wanted 21.*'19'"):
        receiver.wait_for(21, timeout=0.2)
    assert time.monotonic() - started < 5


def test_two_versions_of_a_study_in_flight_together_are_seen(receiver: Receiver) -> None:
    receiver.next(2, Answer(delay_seconds=0.2))

    def one(study_iuid: str) -> None:
        requests.post(
            receiver.url, json={"study_iuid": study_iuid}, headers={"X-Api-Key": KEY}, timeout=5
        ).close()

    threads = [threading.Thread(target=one, args=["1"]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(receiver.in_flight_together()) == 1
    receiver.clear()
    one("1")
    one("1")
    one("2")
    assert receiver.in_flight_together() == []


def test_a_request_that_was_given_up_is_not_in_flight_any_more(receiver: Receiver) -> None:
    def busy(entry: Entry) -> None:
        if entry.study_iuids == ["other"]:
            time.sleep(0.3)

    receiver.answer_with(busy)
    receiver.next(1, HANG)
    first, second, third = (
        http.client.HTTPConnection(receiver.host, receiver.port, timeout=5) for _ in range(3)
    )
    third.connect()
    first.request("POST", "/", '{"study_iuid": "1"}', {"X-Api-Key": KEY})
    while not receiver.entries():
        time.sleep(0.01)
    # Both the end of the first and the third come while the receiver is busy: it sees them at once.
    second.request("POST", "/", '{"study_iuid": "other"}', {"X-Api-Key": KEY})
    time.sleep(0.1)
    first.close()
    third.request("POST", "/", '{"study_iuid": "1"}', {"X-Api-Key": KEY})
    assert third.getresponse().status == 201
    assert receiver.in_flight_together() == []
    for connection in (second, third):
        connection.close()


def test_tls_is_verified_and_an_expired_certificate_is_not_trusted(tmp_path: Path) -> None:
    good = make_certificate(tmp_path / "good")
    expired = make_certificate(tmp_path / "expired", valid_days=-1)
    for certificate, trusted in ((good, True), (expired, False)):
        with Receiver(KEY, tls=certificate.server_context()) as receiver:
            context = ssl.create_default_context(cafile=certificate.ca)
            connection = http.client.HTTPSConnection(receiver.host, receiver.port, timeout=5, context=context)
            if trusted:
                connection.request("POST", "/", '{"study_iuid": "1"}', {"X-Api-Key": KEY})
                assert connection.getresponse().status == OK.status
            else:
                with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
                    connection.request("GET", "/")
            connection.close()
            assert len(receiver.accepted()) == trusted


def test_closing_twice_and_with_open_connections_is_clean() -> None:
    receiver = Receiver(KEY)
    receiver.always(Answer(delay_seconds=60))
    connection = http.client.HTTPConnection(receiver.host, receiver.port, timeout=5)
    connection.request("POST", "/", '{"study_iuid": "1"}', {"X-Api-Key": KEY})
    receiver.wait_for(1)
    receiver.close()
    receiver.close()
    with pytest.raises(ConnectionResetError):
        connection.getresponse()
    connection.close()
    assert len(receiver.accepted()) == 1

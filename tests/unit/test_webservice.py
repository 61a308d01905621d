"""The client of the central index over real sockets: TLS, slow and broken answers, and connections that are used again."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cdc_indexer.delivery.webservice import Request, Webservice
from cdc_indexer.model.outcome import Kind, Outcome, Refusal
from cdc_indexer.model.settings import Settings, load_settings
from tests.certificates import make_certificate
from tests.indexer import KEY
from tests.ports import free_port
from tests.receiver import HANG, RESET, Answer, Receiver

BODY = '{"study_iuid": "1.2", "patient_name": "PEÑA^JOSÉ"}'.encode()


def settings(directory: Path, url: str, **delivery: Any) -> Settings:
    (directory / "server.json").write_text('{"server": "000"}')
    (directory / "config.json").write_text(
        json.dumps(
            {
                "database": {"host": "127.0.0.1", "user": "u", "password": "p", "name": "pacs"},
                "key": KEY,
                "webservice_url": url,
                "delivery": {"timeout_seconds": 0.5, **delivery},
            }
        )
    )
    return load_settings(directory / "config.json")


def client(directory: Path, url: str, **delivery: Any) -> Any:
    return closing(Webservice(settings(directory, url, **delivery)))


@contextmanager
def scripted(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server whose connections are each given to ``serve``."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                serve(connection)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/register"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def request_of(connection: socket.socket) -> bytes:
    data = b""
    while not data.endswith(BODY):
        part = connection.recv(65536)
        if not part:
            break
        data += part
    return data


def test_what_is_sent(tmp_path: Path, receiver: Receiver) -> None:
    with client(tmp_path, receiver.url) as webservice:
        for number in range(3):
            outcome = webservice.exchange(Request(BODY, f"key-{number}"))
            assert (outcome.kind, outcome.status) == (Kind.ACCEPTED, 201)
    entries = receiver.accepted()
    assert [entry.idempotency_key for entry in entries] == ["key-0", "key-1", "key-2"]
    assert entries[0].json["patient_name"] == "PEÑA^JOSÉ"
    assert entries[0].headers["content-type"] == "application/json"
    assert entries[0].headers["host"] == f"127.0.0.1:{receiver.port}"


def test_over_tls_many_requests_share_a_connection(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    with (
        Receiver(KEY, tls=certificate.server_context()) as receiver,
        client(tmp_path, receiver.url, ca=str(certificate.ca)) as webservice,
    ):
        receiver.next(1, Answer(201, b'"' + b"x" * 60_000 + b'"'))
        sockets = set()
        for number in range(5):
            outcome = webservice.exchange(Request(BODY + b" " * 100_000, f"key-{number}"))
            assert outcome.kind is Kind.ACCEPTED, outcome
            sockets.add(webservice.fileno())
        assert len(sockets) == 1
        assert len(receiver.accepted()) == 5


def test_a_certificate_that_cannot_be_trusted_holds(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    with (
        Receiver(KEY, tls=certificate.server_context()) as receiver,
        client(tmp_path, receiver.url) as webservice,
    ):
        outcome = webservice.exchange(Request(BODY, "key"))
        assert outcome.kind is Kind.HELD
        assert "certificate" in outcome.reason
        assert not receiver.entries()


def test_no_answer_and_no_server(tmp_path: Path, receiver: Receiver) -> None:
    with client(tmp_path, receiver.url) as webservice:
        receiver.next(1, HANG)
        began = time.monotonic()
        assert "in time" in webservice.exchange(Request(BODY, "key")).reason
        assert 0.4 < time.monotonic() - began < 3
        receiver.next(1, RESET)
        assert webservice.exchange(Request(BODY, "key")).kind is Kind.RETRY_INDEX
        receiver.refuse()
        assert "can't be reached" in webservice.exchange(Request(BODY, "key")).reason
        receiver.listen()
        assert webservice.exchange(Request(BODY, "key")).kind is Kind.ACCEPTED


def test_an_index_that_answers_a_byte_at_a_time_has_an_end(tmp_path: Path) -> None:
    def serve(connection: socket.socket) -> None:
        request_of(connection)
        try:
            for byte in b"HTTP/1.1 201 Created\r\nX: " + b"x" * 1000:
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
        except OSError:
            pass

    with scripted(serve) as url, client(tmp_path, url) as webservice:
        began = time.monotonic()
        outcome = webservice.exchange(Request(BODY, "key"))
        assert "in time" in outcome.reason
        assert 1.0 < time.monotonic() - began < 5


def test_an_answer_that_comes_before_the_body_was_read_counts(tmp_path: Path) -> None:
    """An index that takes no large bodies answers 413 and hangs up; that isn't a lost connection."""

    def serve(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        time.sleep(0.3)

    with scripted(serve) as url, client(tmp_path, url) as webservice:
        outcome = webservice.exchange(Request(b"x" * 20_000_000, "key"))
        assert (outcome.kind, outcome.status) == (Kind.REJECTED, 413)
        assert not webservice.ready


def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next_one(tmp_path: Path) -> None:
    """A second answer on the connection: taken for the next request's, a study would count as accepted unsent."""
    connections = []

    def serve(connection: socket.socket) -> None:
        connections.append(connection)
        answer = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
        request_of(connection)
        connection.sendall(answer)
        if len(connections) == 1:
            time.sleep(0.1)
            connection.sendall(answer)
            time.sleep(0.3)

    with scripted(serve) as url, client(tmp_path, url) as webservice:
        assert webservice.exchange(Request(BODY, "key-1")).kind is Kind.ACCEPTED
        time.sleep(0.2)
        assert webservice.exchange(Request(BODY, "key-2")).kind is Kind.ACCEPTED
        assert len(connections) == 2


def test_a_remembered_answer_is_not_mistaken_for_another(tmp_path: Path, receiver: Receiver) -> None:
    answers = [Answer(201), Answer(201, {"status": "Error"}), Answer(500, {"status": "Ok"}), Answer(201)]
    for answer in answers:
        receiver.next(1, answer)
    with client(tmp_path, receiver.url) as webservice:
        outcomes: list[Outcome] = [webservice.exchange(Request(BODY, "key")) for _ in answers]
        receiver.next(1, Answer(201))
    assert [outcome.kind for outcome in outcomes] == [
        Kind.ACCEPTED,
        Kind.HELD,
        Kind.RETRY_STUDY,
        Kind.ACCEPTED,
    ]


@pytest.mark.parametrize(
    "garbage", [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 20 Created\r\nContent-Length: 0\r\n\r\n"]
)
def test_what_is_not_http_is_said(tmp_path: Path, garbage: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        request_of(connection)
        connection.sendall(garbage)
        time.sleep(0.2)

    with scripted(serve) as url, client(tmp_path, url) as webservice:
        outcome = webservice.exchange(Request(BODY, "key"))
        assert outcome.kind is Kind.RETRY_INDEX
        assert "isn't HTTP" in outcome.reason


OK = b'{"status": "Ok"}'


@pytest.mark.parametrize(
    ("fields", "at_most"),
    [
        (b"Content-Length: 16, 16\r\n", 0.4),
        (b"Content-Length: +16\r\n", 0.4),
        (b"Transfer-Encoding: identity\r\n", 3.0),
        (b"", 3.0),
    ],
)
def test_an_answer_whose_length_is_odd_counts_though_nobody_hangs_up(
    tmp_path: Path, fields: bytes, at_most: float
) -> None:
    """Item 32: the index took the study, and was sent it again and again."""
    taken = []

    def serve(connection: socket.socket) -> None:
        taken.append(request_of(connection))
        connection.sendall(b"HTTP/1.1 201 Created\r\n%b\r\n" % fields + OK)
        connection.recv(1)

    with scripted(serve) as url, client(tmp_path, url) as webservice:
        began = time.monotonic()
        outcome = webservice.exchange(Request(BODY, "key"))
        assert (outcome.kind, outcome.status) == (Kind.ACCEPTED, 201)
        assert time.monotonic() - began < at_most
        assert not webservice.ready
    assert len(taken) == 1


def test_a_connection_that_ended_at_rest_is_no_index_that_is_away(tmp_path: Path) -> None:
    """Item 32: closed in the same moment in which the next request was sent. Once more, and only once."""
    requests: list[bytes] = []
    answer = b"HTTP/1.1 201 Created\r\nContent-Length: 16\r\n\r\n" + OK
    ends_at = {2, 5, 6}

    def serve(connection: socket.socket) -> None:
        while data := request_of(connection):
            requests.append(data)
            if len(requests) in ends_at:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                return
            connection.sendall(answer)

    with scripted(serve) as url, client(tmp_path, url) as webservice:
        kinds = [webservice.exchange(Request(BODY, f"key-{number}")).kind for number in range(4)]
        assert kinds == [Kind.ACCEPTED, Kind.ACCEPTED, Kind.ACCEPTED, Kind.RETRY_INDEX]
        assert webservice.exchange(Request(BODY, "key-4")).kind is Kind.ACCEPTED
    keys = [data.split(b"Idempotency-Key: ")[1].split(b"\r\n")[0].decode() for data in requests]
    assert keys == ["key-0", "key-1", "key-1", "key-2", "key-3", "key-3", "key-4"]


@pytest.mark.parametrize("reset", [False, True])
def test_half_an_answer_on_a_connection_at_rest_is_not_tried_again_in_silence(
    tmp_path: Path, reset: bool
) -> None:
    requests: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        while data := request_of(connection):
            requests.append(data)
            if len(requests) == 2:
                connection.sendall(b"HTTP/1.1 201 Cre")
                if reset:
                    time.sleep(0.2)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                return
            connection.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 16\r\n\r\n" + OK)

    with scripted(serve) as url, client(tmp_path, url) as webservice:
        assert webservice.exchange(Request(BODY, "key-0")).kind is Kind.ACCEPTED
        assert webservice.exchange(Request(BODY, "key-1")).kind is Kind.RETRY_INDEX
    assert len(requests) == 2


# --- proxies ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (407, Kind.HELD, "The proxy wants a login (status 407)"),
        (403, Kind.HELD, "doesn't let us through"),
        (502, Kind.RETRY_INDEX, "can't reach the central index (status 502)"),
    ],
)
def test_a_proxy_that_opens_no_way_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, kind: Kind, said: str
) -> None:
    """Item 33: it was "(OSError)"."""

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status)

    with scripted(serve) as url:
        proxy = url.removesuffix("/register").replace("http://", "http://somebody:secret@")
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.setenv("NO_PROXY", "")
        with client(tmp_path, "https://index.invalid/register") as webservice:
            outcome = webservice.exchange(Request(BODY, "key"))
    assert outcome.kind is kind
    assert said in outcome.reason
    assert "secret" not in outcome.reason
    if kind is Kind.HELD:
        assert outcome.refusal is Refusal.STRANGER


def test_a_proxy_that_sees_the_request_wants_a_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(connection: socket.socket) -> None:
        request_of(connection)
        connection.sendall(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")

    with scripted(serve) as url:
        monkeypatch.setenv("HTTP_PROXY", url)
        monkeypatch.setenv("NO_PROXY", "")
        with client(tmp_path, "http://index.invalid/register") as webservice:
            outcome = webservice.exchange(Request(BODY, "key"))
    assert (outcome.kind, outcome.refusal) == (Kind.HELD, Refusal.STRANGER)
    assert "The proxy wants a login" in outcome.reason


def test_a_proxy_that_is_not_there_is_not_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("NO_PROXY", "")
    with client(tmp_path, "https://index.invalid/register") as webservice:
        outcome = webservice.exchange(Request(BODY, "key"))
    assert outcome.kind is Kind.RETRY_INDEX
    assert outcome.reason.startswith(f"The proxy 127.0.0.1:{port} can't be reached")

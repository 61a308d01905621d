"""A central index that isn't ours, is taken over, or is somebody on the way to it: what it can do to us."""

from __future__ import annotations

import gzip
import itertools
import json
import resource
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cdc_indexer.delivery.batch import batch
from cdc_indexer.delivery.probe import probe
from cdc_indexer.delivery.webservice import MAX_ANSWER_BYTES, Request, Webservice
from cdc_indexer.model.outcome import Kind, Outcome
from cdc_indexer.model.settings import Settings, load_settings
from tests.certificates import Certificate, make_certificate
from tests.indexer import KEY
from tests.receiver import Answer, Receiver
from tests.security.rogue import Rogue, answering, read_request

BODY = b'{"patient_name": "PE\xc3\x91A^JOS\xc3\x89"}'
HEAD = b"HTTP/1.1 201 Created\r\n"

Make = Callable[..., Settings]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Settings for an index at ``url``; what else is given goes into ``delivery``."""

    def settings(url: str, **delivery: Any) -> Settings:
        config = {
            "database": {"host": "localhost", "user": "indexer", "password": "secret", "name": "pacsdb"},
            "key": KEY,
            "webservice_url": url,
            "delivery": {"timeout_seconds": 2, **delivery},
        }
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "server.json").write_text('{"server": "007"}')
        return load_settings(tmp_path / "config.json", {})

    return settings


def post(settings: Settings) -> Outcome:
    webservice = Webservice(settings)
    try:
        return webservice.exchange(Request(BODY, "0d1b3b2e-0000-5000-8000-000000000001"))
    finally:
        webservice.close()


def post_batch(client: Any, elements: list[Any]) -> list[Outcome]:
    job = batch(elements)
    try:
        request = next(job)
        while True:
            request = job.send(client.exchange(request))
    except StopIteration as ended:
        return list(ended.value)


def peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# --- where the key goes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_key_does_not_follow_a_redirect(status: int, make: Make) -> None:
    with Receiver(KEY) as there, Receiver(KEY) as elsewhere:
        there.always(Answer(status, b"", {"Location": elsewhere.url}), gets=True)
        settings = make(there.url)
        outcome = post(settings)
        assert (outcome.kind, outcome.status) == (Kind.HELD, status)
        assert "redirects" in outcome.reason
        findings = {finding.name: finding for finding in probe(settings)}
        assert "redirects" in findings["key accepted"].message
        assert elsewhere.entries() == []


def test_a_proxy_of_the_environment_sees_no_key_of_https(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path / "tls")
    asked: list[bytes] = []

    def tunnel(sock: socket.socket) -> None:
        asked.append(read_request(sock))
        target = asked[-1].split()[1].decode()
        host, _, port = target.partition(":")
        with socket.create_connection((host, int(port))) as other:
            sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=_pump, args=(other, sock), daemon=True)
            back.start()
            _pump(sock, other)
            back.join()

    with Receiver(KEY, tls=certificate.server_context()) as index, Rogue(tunnel) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        assert post(make(index.url, ca=str(certificate.ca))).kind is Kind.ACCEPTED
        assert [entry.headers["x-api-key"] for entry in index.accepted()] == [KEY]
        assert len(asked) == 1
        assert asked[0].startswith(b"CONNECT ")
        assert KEY.encode() not in asked[0]
        # An index that is named in NO_PROXY is reached without it.
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert post(make(index.url, ca=str(certificate.ca))).kind is Kind.ACCEPTED
        assert len(asked) == 1


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


# --- certificates ----------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return make_certificate(tmp_path / "index")


def test_a_certificate_is_verified(make: Make, tmp_path: Path, certificate: Certificate) -> None:
    stranger = make_certificate(tmp_path / "stranger")
    with Receiver(KEY, tls=certificate.server_context()) as index:
        assert post(make(index.url, ca=str(certificate.ca))).kind is Kind.ACCEPTED
        for ca in (None, str(stranger.ca)):
            outcome = post(make(index.url, ca=ca))
            assert outcome.kind is Kind.HELD
            assert "can't be trusted" in outcome.reason
        outcome = post(make(index.url.replace("127.0.0.1", "localhost"), ca=str(certificate.ca)))
        assert outcome.kind is Kind.HELD
        assert len(index.entries()) == 1
    expired = make_certificate(tmp_path / "expired", valid_days=0)
    with Receiver(KEY, tls=expired.server_context()) as index:
        outcome = post(make(index.url, ca=str(expired.ca)))
        assert outcome.kind is Kind.HELD
        assert "expired" in outcome.reason
        assert index.entries() == []


def test_our_own_certificate_is_shown(make: Make, tmp_path: Path, certificate: Certificate) -> None:
    ours = make_certificate(tmp_path / "ours")
    both = tmp_path / "both.pem"
    both.write_bytes(ours.cert.read_bytes() + ours.key.read_bytes())
    context = certificate.server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(ours.ca)
    with Receiver(KEY, tls=context) as index:
        assert post(make(index.url, ca=str(certificate.ca), client_cert=str(both))).kind is Kind.ACCEPTED
        assert post(make(index.url, ca=str(certificate.ca))).kind is not Kind.ACCEPTED
        assert len(index.entries()) == 1
        findings = {
            finding.name: finding
            for finding in probe(make(index.url, ca=str(certificate.ca), client_cert=str(both)))
        }
        assert "Our certificate ends in" in findings["client certificate"].message


# --- answers without end ---------------------------------------------------------------------------------


def _endless(part: bytes) -> Callable[[], Iterator[bytes]]:
    return lambda: itertools.repeat(part)


def _bomb() -> bytes:
    """A gigabyte of zeros."""
    return gzip.compress(bytes(2**20), 9) * 1024


ENDLESS: dict[str, Callable[[], Iterator[bytes]]] = {
    "a body of ten gigabytes": lambda: itertools.chain(
        [HEAD + b"Content-Length: 10000000000\r\n\r\n"], itertools.repeat(bytes(65536))
    ),
    "a body without end": lambda: itertools.chain([HEAD + b"\r\n"], itertools.repeat(bytes(65536))),
    "chunks without end": lambda: itertools.chain(
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n"],
        itertools.repeat(b"10000\r\n" + bytes(65536) + b"\r\n"),
    ),
    "a gzip bomb": lambda: iter(
        [HEAD + b"Content-Encoding: gzip\r\nContent-Length: 1100000000\r\n\r\n", _bomb()]
    ),
    "headers without end": lambda: itertools.chain([HEAD], itertools.repeat(b"X-More: and more\r\n" * 1000)),
    "a header without end": lambda: itertools.chain([HEAD + b"X-More: "], itertools.repeat(b"a" * 65536)),
    "a status line without end": lambda: itertools.chain([b"HTTP/1.1 201 "], itertools.repeat(b"a" * 65536)),
    "a size of a chunk without end": lambda: itertools.chain(
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n"], itertools.repeat(b"0" * 65536)
    ),
    "something that isn't HTTP": lambda: itertools.repeat(b"\0\xff" * 1000),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_an_answer_without_end_is_cut(kind: str, make: Make) -> None:
    requests: list[bytes] = []
    with Rogue(answering(ENDLESS[kind], requests)) as rogue:
        settings = make(f"http://127.0.0.1:{rogue.port}/")
        before, began = peak_kib(), time.monotonic()
        outcome = post(settings)
        assert time.monotonic() - began < 10
        assert len(outcome.answer) <= MAX_ANSWER_BYTES
        assert len(outcome.reason) < 300
        assert b"Accept-Encoding: identity\r\n" in requests[0]
    if kind != "a gzip bomb":  # the rogue itself holds that one, compressed
        assert peak_kib() - before < 32 * 1024


@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/1.1 201 ",
        HEAD,
        HEAD + b"Content-Length: 100\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n",
    ],
)
@pytest.mark.parametrize("drop", [b"a", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_an_answer_that_comes_by_drops_ends_by_the_deadline(start: bytes, drop: bytes, make: Make) -> None:
    """Each drop within the timeout, so that only a limit for the whole ends it."""

    def drops() -> Iterator[bytes]:
        yield start
        while True:
            time.sleep(0.05)
            yield drop

    with Rogue(answering(drops, [])) as rogue:
        began = time.monotonic()
        post(make(f"http://127.0.0.1:{rogue.port}/", timeout_seconds=0.2))
        assert time.monotonic() - began < 5


# --- answers that play tricks ----------------------------------------------------------------------------

TRICKS = '\x1b[2J\x1b]0;owned\x07\r\n{"level": "info", "event": "accepted"}\n\u202e\x9b31m'


@pytest.mark.parametrize("status", [201, 302, 401, 404, 409, 418, 422, 429, 500, 503])
def test_what_the_index_says_is_never_part_of_a_reason(status: int, make: Make) -> None:
    with Receiver(KEY) as index:
        index.always(Answer(status, TRICKS.encode(), {"X-Trick": "\x1b[2J", "Retry-After": "\x1b[2J"}))
        outcome = post(make(index.url))
        assert outcome.status == status
        assert outcome.reason.isprintable()
        for secret in ("owned", "accepted", KEY):
            assert secret not in outcome.reason


@pytest.mark.parametrize("depth", [500, 900, 990, 2000, 30_000])
@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_an_answer_that_nests_is_no_trouble(depth: int, brackets: str, make: Make) -> None:
    opening = "[" if brackets == "[]" else '{"status":'
    nested = opening * depth + "1" + brackets[1] * depth
    for body in (nested, f'{{"results": [{nested}, {nested}]}}', f'{{"status": {nested}}}'):
        with Receiver(KEY) as index:
            index.always(Answer(207, body.encode()), gets=True)
            settings = make(index.url, batch_size=2)
            webservice = Webservice(settings)
            outcomes = post_batch(webservice, [_Element(), _Element()])
            webservice.close()
            assert len(outcomes) == 2
            post(settings)
            list(probe(settings))


@pytest.mark.parametrize("number", ["9" * 4000, "-1", "1e400", "NaN", "true", '"201"', "0.5"])
def test_a_batch_with_odd_numbers(number: str, make: Make) -> None:
    with Receiver(KEY) as index:
        index.always(Answer(207, f'[{{"status": {number}}}, {number}]'.encode()))
        webservice = Webservice(make(index.url, batch_size=2))
        outcomes = post_batch(webservice, [_Element(), _Element()])
        webservice.close()
        assert all(len(outcome.reason) < 300 for outcome in outcomes)


def test_a_batch_whose_answer_nests_to_the_very_limit() -> None:
    """Somewhere below it the answer can be read, and what is done with it then can not."""

    class Index:
        answer = ""

        def exchange(self, request: Request) -> Outcome:
            return Outcome(Kind.ACCEPTED, 207, self.answer)

    index = Index()
    for depth in range(700, 1100):
        for opening, closing in (("[", "]"), ('{"a":', "}")):
            nested = opening * depth + "1" + closing * depth
            index.answer = f"[{nested}, 201]"
            assert len(post_batch(index, [_Element(), _Element()])) == 2


class _Element:
    body = BODY
    idempotency_key = "0d1b3b2e-0000-5000-8000-000000000001"
    study_version: int | None = None

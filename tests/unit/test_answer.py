"""The answer of a central index, read piece by piece: as http.client reads it, and nothing else passes for an answer."""

from __future__ import annotations

import io
from http.client import HTTPException, HTTPResponse
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_indexer.delivery._answer import MAX_HEAD_BYTES, Answer, AnswerReader

LIMIT = 2000
OK = b'{"status": "Ok"}'


def read(*parts: bytes, limit: int = LIMIT, closes: bool = False) -> Answer | None:
    reader = AnswerReader(limit)
    for part in parts:
        answer = reader.feed(part)
        if answer is not None:
            return answer
    return reader.feed(b"") if closes else None


WHOLE = [
    b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n" + OK,
    b"HTTP/1.1 201\r\ncontent-length:16\r\n\r\n" + OK,
    b"HTTP/1.1 200 OK\nContent-Length: 16\n\n" + OK,
    b"HTTP/1.0 200 OK\r\nContent-Length: 16\r\n\r\n" + OK,
    b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 16\r\n\r\n" + OK,
    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 16\r\n\r\n" + OK,
    b"HTTP/1.1 503 Busy\r\nRetry-After: 120\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 16\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 16\r\n\r\n" + OK,
    b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\na\r\n"
    + OK[:10]
    + b"\r\n6;x=y\r\n"
    + OK[10:]
    + b"\r\n0\r\n\r\n",
    b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n" + OK + b"\r\n0\r\nTrailer: x\r\n\r\n",
]


class _Socket:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> Any:
        return io.BytesIO(self._data)


@pytest.mark.parametrize("data", WHOLE)
def test_a_whole_answer_is_read_as_http_client_reads_it(data: bytes) -> None:
    known = HTTPResponse(cast(Any, _Socket(data)), method="POST")
    known.begin()
    body = known.read()
    answer = read(data)
    assert answer == Answer(known.status, body, known.getheader("Retry-After"), not known.will_close)


@given(st.sampled_from(WHOLE), st.data())
def test_it_does_not_matter_in_which_pieces_it_comes(data: bytes, draw: st.DataObject) -> None:
    cuts = sorted(draw.draw(st.sets(st.integers(1, len(data) - 1), max_size=8)))
    parts = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert read(*parts) == read(data)
    for end in range(1, len(parts)):
        assert read(*parts[:end]) is None


@pytest.mark.parametrize("data", WHOLE)
def test_every_single_cut(data: bytes) -> None:
    for cut in range(1, len(data)):
        assert read(data[:cut]) is None
        assert read(data[:cut], data[cut:]) == read(data)


@pytest.mark.parametrize("data", WHOLE)
def test_an_answer_without_its_end_is_none(data: bytes) -> None:
    for end in range(1, len(data)):
        with pytest.raises((HTTPException, ConnectionResetError)):
            read(data[:end], closes=True)


def test_no_answer_at_all() -> None:
    with pytest.raises(ConnectionResetError):
        read(closes=True)


def test_without_a_length_the_end_of_the_connection_ends_it() -> None:
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    assert read(head + OK) is None
    assert read(head + OK, closes=True) == Answer(200, OK, None, False)
    # An unknown coding goes on until the end as well.
    assert read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n" + OK, closes=True) == Answer(
        200, OK, None, False
    )


@pytest.mark.parametrize("data", WHOLE)
def test_what_nobody_asked_for_spoils_the_connection(data: bytes) -> None:
    """Else the next request would take it for its own answer."""
    answer = read(data + b"HTTP/1.1 201 Created\r\n\r\n")
    assert answer is not None
    assert not answer.reusable


def test_both_lengths_spoil_the_connection() -> None:
    answer = read(
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n"
        + OK
        + b"\r\n0\r\n\r\n"
    )
    assert answer == Answer(200, OK, None, False)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n",
    ],
)
def test_of_a_long_body_the_beginning_is_enough(head: bytes) -> None:
    assert read(head, b"x" * 1100, b"x" * 1100) == Answer(200, b"x" * LIMIT, None, False)


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 99 Low\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\nX: " + b"x" * MAX_HEAD_BYTES,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 4000,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD_BYTES,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"x: y\r\n" * MAX_HEAD_BYTES,
    ],
)
def test_what_is_not_an_answer_raises(data: bytes) -> None:
    with pytest.raises(HTTPException):
        read(data)


# --- what the parser refuses after a status ------------------------------------------------------------------


REFUSED = {
    "a length twice in one line": b"Content-Length: 16, 16\r\n",
    "a length with a sign": b"Content-Length: +16\r\n",
    "two equal lengths": b"Content-Length: 16\r\nContent-Length: 16\r\n",
    "a name with a blank": b"X y: 1\r\nContent-Length: 16\r\n",
    "a folded line": b"Content-Length: 16\r\nX: a \r\n b\r\n",
}


@pytest.mark.parametrize("status", [201, 400, 503])
@pytest.mark.parametrize("kind", REFUSED)
def test_a_length_that_can_be_understood_ends_the_body(kind: str, status: int) -> None:
    """Item 32: the index has taken the study, and would be sent it again and again. It needn't close for that."""
    data = b"HTTP/1.1 %d X\r\n%b\r\n" % (status, REFUSED[kind]) + OK
    answer = Answer(status, OK, None, False)
    assert read(data) == answer
    for cut in range(1, len(data)):
        assert read(data[:cut], data[cut:]) == answer
    assert read(*(data[number : number + 1] for number in range(len(data)))) == answer


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 1\r\nContent-Length: 2\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: x\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Transfer-Encoding: identity\r\nContent-Length: 16\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"",
    ],
)
def test_a_length_that_can_not_ends_with_the_connection_or_with_our_patience(fields: bytes) -> None:
    data = b"HTTP/1.1 201 Created\r\n%b\r\n" % fields + OK
    assert read(data) is None
    answer = Answer(201, OK, None, False)
    assert read(data, closes=True) == answer
    reader = AnswerReader(LIMIT)
    for number in range(len(data)):
        assert reader.give_up() is None or number > len(data) - len(OK)
        assert reader.feed(data[number : number + 1]) is None
    assert reader.give_up() == answer
    assert reader.feed(b"x" * LIMIT) == Answer(201, (OK + b"x" * LIMIT)[:LIMIT], None, False)


def test_chunks_under_a_head_that_is_refused() -> None:
    data = (
        b"HTTP/1.1 201 Created\r\nX y: 1\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n" + OK + b"\r\n0\r\n\r\n"
    )
    for cut in range(1, len(data)):
        assert read(data[:cut], data[cut:]) == Answer(201, OK, None, False)


@pytest.mark.parametrize("rest", [b"xyz\r\n", b"-1\r\n", b"2\r\nabcd\r\n"])
def test_chunks_that_are_none_are_the_end_of_what_is_known(rest: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n" + OK + b"\r\n"
    answer = read(head + rest, closes=True)
    assert answer is not None
    assert (answer.status, answer.body[: len(OK)], answer.reusable) == (200, OK, False)


def test_a_length_that_was_promised_and_did_not_come_is_no_answer() -> None:
    reader = AnswerReader(LIMIT)
    assert reader.feed(b"HTTP/1.1 201 Created\r\nContent-Length: 17\r\n\r\n" + OK) is None
    assert reader.give_up() is None
    with pytest.raises(HTTPException):
        reader.feed(b"")


@given(st.binary(max_size=200), st.integers(1, 20))
def test_whatever_comes_is_an_answer_or_none(data: bytes, size: int) -> None:
    for start in (b"", b"HTTP/1.1 201 Created\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"):
        whole = start + data
        parts = [whole[number : number + size] for number in range(0, len(whole), size)]
        try:
            answer = read(*parts, closes=True)
        except (HTTPException, ConnectionResetError):
            continue
        assert answer is not None
        assert 200 <= answer.status < 1000 or answer.status == 101

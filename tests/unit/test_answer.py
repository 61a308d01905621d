"""The answer of a central index, read piece by piece: as http.client reads it, and nothing else passes for an answer."""

from __future__ import annotations

import io
from http.client import HTTPException, HTTPResponse
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_indexer.delivery._answer import MAX_HEAD_BYTES, Answer, AnswerReader

LIMIT = 1000
OK = b'{"status": "Ok"}'


def read(*parts: bytes, method: str = "POST", limit: int = LIMIT, closes: bool = False) -> Answer | None:
    reader = AnswerReader(method, limit)
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
    assert read(head, b"x" * 600, b"x" * 600) == Answer(200, b"x" * LIMIT, None, False)


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 5000,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD_BYTES,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"x: y\r\n" * MAX_HEAD_BYTES,
    ],
)
def test_what_is_not_an_answer_raises(data: bytes) -> None:
    with pytest.raises(HTTPException):
        read(data)

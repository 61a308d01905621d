"""The answer to one HTTP request, read as its bytes come in (RFC 9112), without a socket (pure).

http.client reads from a blocking socket and takes a third of what a whole POST costs us; this gives what we look at: the
status, the body, Retry-After, and whether the connection can be used again. What isn't HTTP/1 raises HTTPException.
"""

from __future__ import annotations

import errno
import re
from functools import lru_cache
from http.client import HTTPException
from typing import NamedTuple

#: A head may have so many bytes, all its header fields together.
MAX_HEAD_BYTES = 64 * 1024

_HEAD_END = re.compile(rb"\n\r?\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.(\d) ([1-9]\d\d)(?:[ \t][^\n]*)?")
_CHUNK_SIZE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,16})[ \t]*(?:;.*)?")
_MAX_CHUNK_LINE_BYTES = 4096

#: What follows the head.
_NOTHING, _LENGTH, _CHUNKED, _UNTIL_CLOSE = range(4)


class Answer(NamedTuple):
    """``body`` is cut at the limit; then, or when more came than belongs to it, the connection isn't reusable."""

    status: int
    body: bytes
    retry_after: str | None
    reusable: bool


class AnswerReader:
    """Reads one answer; of its body so many bytes and no more."""

    __slots__ = ("_body", "_data", "_keep", "_kind", "_left", "_limit", "_method", "_retry_after", "_status")

    def __init__(self, method: str, max_body_bytes: int) -> None:
        self._method = method
        self._limit = max_body_bytes
        self._data = b""
        self._kind: int | None = None
        self._body = b""
        self._left = 0
        self._status = 0
        self._keep = False
        self._retry_after: str | None = None

    def feed(self, data: bytes) -> Answer | None:
        """Takes what was received, b"" for the end of the connection; the answer once it is whole.

        Raises HTTPException, and ConnectionResetError when the connection ends without any answer.
        """
        if not data:
            return self._end()
        self._data = self._data + data if self._data else data
        while self._kind is None:
            if not self._head():
                return None
        if self._kind == _LENGTH:
            length = self._left
            if len(self._data) >= length <= self._limit:
                return self._whole(self._data[:length], more=len(self._data) > length)
            return self._cut(self._data)
        if self._kind == _NOTHING:
            return self._whole(b"", more=bool(self._data))
        if self._kind == _CHUNKED:
            return self._chunks()
        return self._cut(self._data)

    def _whole(self, body: bytes, *, more: bool) -> Answer:
        return Answer(self._status, body, self._retry_after, self._keep and not more)

    def _cut(self, body: bytes) -> Answer | None:
        """A body that isn't whole yet: more of it isn't wanted once the limit is reached."""
        if len(body) <= self._limit:
            return None
        return Answer(self._status, body[: self._limit], self._retry_after, False)

    def _end(self) -> Answer:
        if self._kind == _UNTIL_CLOSE:
            return self._whole(self._data, more=True)
        if self._kind is None and not self._data:
            raise ConnectionResetError(errno.ECONNRESET, "the connection was closed without an answer")
        raise HTTPException("the answer ends too soon")

    # --- the head ----------------------------------------------------------------------------------------

    def _head(self) -> bool:
        """Reads the head if it is whole; an interim one (100 to 199, but 101) is followed by another."""
        data = self._data
        end = _HEAD_END.search(data, 0, MAX_HEAD_BYTES)
        if end is None:
            if len(data) >= MAX_HEAD_BYTES or data[:7] != b"HTTP/1."[: len(data)]:
                raise HTTPException("no head of an answer")
            return False
        head = data[: end.start()]
        framing = _framing if len(head) <= _REMEMBERED_BYTES else _framing.__wrapped__
        status, keep, kind, length, retry_after = framing(head, self._method == "HEAD")
        self._data = data[end.end() :]
        if kind is None:
            return bool(self._data)
        self._status, self._keep, self._kind, self._left = status, keep, kind, length
        self._retry_after = retry_after
        return True

    # --- chunks ------------------------------------------------------------------------------------------

    def _chunks(self) -> Answer | None:
        """Takes the whole chunks from what has come; ``_left`` is what is missing of the present one and its end."""
        while True:
            if self._left > 0:
                part = self._data[: self._left]
                self._body += part
                self._data = self._data[len(part) :]
                self._left -= len(part)
                if len(self._body) > self._limit:
                    return self._cut(self._body)
                if self._left > 0:
                    return None
                self._left = -1
            if self._left < 0:  # the line break after a chunk
                if self._data[:1] == b"\n":
                    self._data = self._data[1:]
                elif self._data[:2] == b"\r\n":
                    self._data = self._data[2:]
                elif self._data in (b"", b"\r"):
                    return None
                else:
                    raise HTTPException("a chunk has no end")
                self._left = 0
            line, end, rest = self._data.partition(b"\n")
            if not end:
                if len(line) > _MAX_CHUNK_LINE_BYTES:
                    raise HTTPException("a chunk has no size")
                return None
            size = _CHUNK_SIZE.fullmatch(line.rstrip(b"\r"))
            if size is None:
                raise HTTPException("a chunk has no size")
            self._left = int(size[1], 16)
            if not self._left:
                return self._trailer(rest)
            self._data = rest

    def _trailer(self, rest: bytes) -> Answer | None:
        """After the last chunk: header fields that nobody asked for, and an empty line."""
        if rest.startswith((b"\n", b"\r\n")):
            return self._whole(self._body, more=len(rest) > (1 if rest[:1] == b"\n" else 2))
        end = _HEAD_END.search(rest)
        if end is not None:
            return self._whole(self._body, more=len(rest) > end.end())
        if len(rest) > MAX_HEAD_BYTES:
            raise HTTPException("a trailer without end")
        return None


_FIELDS = frozenset({b"content-length", b"transfer-encoding", b"connection", b"retry-after"})

#: Status, whether the connection may be used again, what follows (None: another head), its length, Retry-After.
_Framing = tuple[int, bool, "int | None", int, "str | None"]

#: Heads that are longer aren't kept.
_REMEMBERED_BYTES = 1024


# Under load the answers of a second have the same head, to the Date.
@lru_cache(maxsize=16)
def _framing(head: bytes, no_body: bool) -> _Framing:
    """What the head says, and what follows it (RFC 9112, 6.3); raises HTTPException."""
    line, *fields = head.split(b"\n")
    status_line = _STATUS_LINE.fullmatch(line.rstrip(b"\r"))
    if status_line is None:
        raise HTTPException("no status line")
    status = int(status_line[2])
    if 100 <= status < 200 and status != 101:
        return status, False, None, 0, None
    keep = status_line[1] != b"0"
    length: int | None = None
    retry_after: str | None = None
    chunked = coded = False
    for field in fields:
        name, colon, value = field.partition(b":")
        name = name.lower()
        if not colon or name not in _FIELDS:
            continue
        value = value.strip()
        if name == b"content-length":
            if not value.isdigit() or length not in (None, int(value)):
                raise HTTPException("no length")
            length = int(value)
        elif name == b"transfer-encoding":
            coded = True
            chunked = value.lower().rpartition(b",")[2].strip() == b"chunked"
        elif name == b"connection":
            options = [option.strip() for option in value.lower().split(b",")]
            keep = b"close" not in options and (keep or b"keep-alive" in options)
        else:
            retry_after = value.decode("latin-1")
    if no_body or status in (101, 204, 304):
        return status, keep and status != 101, _NOTHING, 0, retry_after
    if coded:
        # Both at once is how requests are smuggled: what is left on the connection isn't trusted.
        return status, keep and length is None, _CHUNKED if chunked else _UNTIL_CLOSE, 0, retry_after
    if length is not None:
        return status, keep, _LENGTH, length, retry_after
    return status, keep, _UNTIL_CLOSE, 0, retry_after

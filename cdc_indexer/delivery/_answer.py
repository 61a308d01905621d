"""The answer to one HTTP request, read as its bytes come in, without a socket (pure). The parser is httptools.

http.client reads from a blocking socket and takes a third of what a whole POST costs us. What isn't HTTP/1 raises
HTTPException.
A final status is believed even where the parser refuses the rest of the head: an index that says "201" and
``Content-Length: 16, 16`` has taken the study, and would be sent it again and again.
"""

from __future__ import annotations

import errno
import re
from functools import lru_cache
from http.client import HTTPException
from typing import NamedTuple

from httptools import HttpParserError, HttpParserInvalidStatusError, HttpResponseParser

#: A head may have so many bytes, all its header fields together; so may what frames the chunks of a body.
MAX_HEAD_BYTES = 64 * 1024

_HEAD_END = re.compile(rb"\n\r?\n")
_LENGTH = re.compile(rb"^content-length:[ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_CHUNKED = re.compile(rb"^transfer-encoding:[^\r\n]*\bchunked[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)


class Answer(NamedTuple):
    """``body`` is cut at the limit; then, or when more came than belongs to it, the connection isn't reusable."""

    status: int
    body: bytes
    retry_after: str | None
    reusable: bool
    features: str | None = None
    center: str | None = None


#: Answers that are longer aren't kept.
_REMEMBERED_BYTES = 1024


# Under load the answers of a second are the same, to the Date.
@lru_cache(maxsize=16)
def _at_once(data: bytes) -> Answer | None:
    """A whole answer that came in one piece."""
    return _Parsing(_REMEMBERED_BYTES).feed(data)


class AnswerReader:
    """Reads one answer; of its body so many bytes and no more."""

    __slots__ = ("_body_limit", "_data", "_parsing", "_refused")

    def __init__(self, max_body_bytes: int) -> None:
        self._body_limit = max_body_bytes
        self._parsing: _Parsing | None = None
        #: What has come of an answer whose head isn't whole, or was refused by the parser.
        self._data = b""
        self._refused: int | None = None

    @property
    def begun(self) -> bool:
        """Whether anything has come."""
        return self._parsing is not None

    def feed(self, data: bytes) -> Answer | None:
        """Takes what was received, b"" for the end of the connection; the answer once it is whole.

        Raises HTTPException, and ConnectionResetError when the connection ends without any answer.
        """
        if not data:
            return self._end()
        if self._parsing is None:
            if len(data) <= _REMEMBERED_BYTES <= self._body_limit:
                try:
                    answer = _at_once(data)
                except HttpParserError:
                    answer = None
                if answer is not None:
                    return answer
            self._parsing = _Parsing(self._body_limit)
        if self._refused is not None:
            return self._unframed(data)
        if not self._parsing.status:
            self._data += data
        try:
            return self._parsing.feed(data)
        except HttpParserError as error:
            return self._refuse(error)

    def give_up(self) -> Answer | None:
        """No more comes in time: the answer, if nothing but the end of the connection could tell that it is whole."""
        parsing = self._parsing
        if parsing is None or not parsing.status or not parsing.until_close or not parsing.body:
            return None
        return parsing.answer(reusable=False)

    def _end(self) -> Answer:
        parsing = self._parsing
        if parsing is None:
            raise ConnectionResetError(errno.ECONNRESET, "the connection was closed without an answer")
        if parsing.status and parsing.until_close:
            return parsing.answer(reusable=False)
        raise HTTPException("the answer ends too soon")

    # --- what the parser refuses ---------------------------------------------------------------------------

    def _refuse(self, error: HttpParserError) -> Answer | None:
        """Goes on with an answer of which only the status is understood."""
        assert self._parsing is not None
        status = self._parsing.status or self._parsing.seen_status
        if status < 200 or isinstance(error, HttpParserInvalidStatusError):
            raise HTTPException("that isn't HTTP") from None
        if self._parsing.status:
            # Chunks without a size, most likely: what came before is the body.
            self._parsing.until_close = True
            self._refused = status
            return None
        self._refused = status
        data, self._data = self._data, b""
        return self._unframed(data)

    def _unframed(self, data: bytes) -> Answer | None:
        """The head once more, without what was refused."""
        parsing = self._parsing
        assert parsing is not None
        assert self._refused is not None
        if not parsing.status:
            self._data += data
            end = _HEAD_END.search(self._data, 0, MAX_HEAD_BYTES)
            if end is None:
                if len(self._data) > MAX_HEAD_BYTES:
                    raise HTTPException("a head without end")
                return None
            head, data = self._data[: end.start() + 1], self._data[end.end() :]
            framing = b"Transfer-Encoding: chunked\r\n" if _CHUNKED.search(head) else _length(head)
            self._parsing = parsing = _Parsing(self._body_limit)
            parsing.keeps = False
            parsing.feed(b"HTTP/1.1 %d \r\n%b\r\n" % (self._refused, framing))
            if parsing.whole:
                return parsing.answer(reusable=False)
        elif parsing.until_close:
            return parsing.more(data)
        try:
            return parsing.feed(data) if data else None
        except HttpParserError:
            parsing.until_close = True
            return None


def _length(head: bytes) -> bytes:
    """The Content-Length that a head means, as a field; nothing if it doesn't mean any."""
    lengths = {part.strip(b" \t+") for value in _LENGTH.findall(head) for part in value.split(b",")}
    if len(lengths) != 1 or not (length := lengths.pop()).isdigit() or len(length) > 15:
        return b""
    return b"Content-Length: %b\r\n" % length


class _Parsing:
    """One answer as httptools sees it; its methods ``on_...`` are what it calls. Raises HttpParserError."""

    __slots__ = (
        "_framed",
        "_limit",
        "_overhead",
        "_parser",
        "body",
        "center",
        "features",
        "keeps",
        "retry_after",
        "status",
        "surplus",
        "until_close",
        "whole",
    )

    def __init__(self, max_body_bytes: int) -> None:
        self._limit = max_body_bytes
        self._overhead = 0
        self.body = b""
        self._reset()
        self.keeps = True
        self.whole = self.surplus = False
        self._parser = HttpResponseParser(self)
        # Both lengths at once, and lines that end with a line feed alone, as http.client takes them.
        self._parser.set_dangerous_leniencies(lenient_chunked_length=True, lenient_optional_cr_before_lf=True)

    def _reset(self) -> None:
        self.status = 0
        self.retry_after: str | None = None
        self.features: str | None = None
        self.center: str | None = None
        self._framed = 0
        self.until_close = False

    @property
    def seen_status(self) -> int:
        """The status, before the head is whole."""
        return int(self._parser.get_status_code())

    def feed(self, data: bytes) -> Answer | None:
        """The answer once it is whole, or longer than it may be."""
        had = len(self.body)
        try:
            self._parser.feed_data(data)
        except HttpParserError:
            if not self.whole:
                raise
            self.surplus = True
        if self.whole:
            return self._cut() or self.answer(reusable=self.keeps and not self.surplus)
        self._overhead += len(data) - (len(self.body) - had)
        if self._overhead > MAX_HEAD_BYTES:
            raise HTTPException("a head without end")
        return self._cut()

    def more(self, data: bytes) -> Answer | None:
        """The same for what isn't framed."""
        self.body += data
        return self._cut()

    def answer(self, *, reusable: bool) -> Answer:
        return Answer(self.status, self.body, self.retry_after, reusable, self.features, self.center)

    def _cut(self) -> Answer | None:
        if len(self.body) <= self._limit:
            return None
        return Answer(
            self.status, self.body[: self._limit], self.retry_after, False, self.features, self.center
        )

    # --- called by the parser ----------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.whole:
            self.surplus = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.whole or len(name) not in (11, 12, 14, 17):
            return
        name = name.lower()
        if name == b"retry-after":
            self.retry_after = value.decode("latin-1")
        elif name == b"index-center":
            self.center = value.decode("latin-1").strip()
        elif name == b"index-features":
            text = value.decode("latin-1")
            self.features = text if self.features is None else f"{self.features}, {text}"
        elif name in (b"content-length", b"transfer-encoding"):
            self._framed += 1
            if name == b"transfer-encoding" and value.lower().rpartition(b",")[2].strip() != b"chunked":
                self._framed = -8

    def on_headers_complete(self) -> None:
        if self.whole:
            return
        self.status = self._parser.get_status_code()
        self.until_close = self._framed <= 0 and self.status not in (204, 304)

    def on_body(self, data: bytes) -> None:
        if not self.whole:
            self.body = self.body + data if self.body else data

    def on_message_complete(self) -> None:
        if self.whole:
            return
        if self.status < 200 and self.status != 101:
            self._reset()  # an interim answer: another one follows
            return
        self.whole = True
        # Both at once is how requests are smuggled: what is left on the connection isn't trusted.
        self.keeps = (
            self.keeps and self._framed < 2 and self.status != 101 and self._parser.should_keep_alive()
        )

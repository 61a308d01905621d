"""What an answer of the central index means (pure)."""

from __future__ import annotations

import json
import re
import zlib
from typing import Any

from cdc_indexer.delivery._retry_after import parse_retry_after
from cdc_indexer.model.outcome import Kind, Outcome, Refusal
from cdc_indexer.model.version import FAR_AHEAD

__all__ = ["classify", "is_json", "proxy_refuses"]

_REJECTED = frozenset({400, 412, 413, 414, 415, 422})
_WRONG_KEY = frozenset({401, 403})
_WRONG_ADDRESS = frozenset({404, 405, 410})
#: The index is fine, this request isn't now: 408 it came too slowly, 423 and 424 something of it is locked, 425 too early.
_STUDY_LATER = frozenset({408, 423, 424, 425})

#: Of a compressed answer so much is unfolded and no more.
_MAX_UNFOLDED_BYTES = 64 * 1024
_GZIP = b"\x1f\x8b"

#: What a page for people has somewhere, or begins with.
_PAGE_PARTS = ("<html", "<!doctype html", "</html>")
_PAGE_BEGINS = re.compile(
    r"<(?:head|title|meta|link|body|script|style|br|b|p|h[1-6]|div|span|center|table|form|font|a|img|iframe)\b"
)
_COMMENTS = 10

_NOT_JSON = object()

_STRANGER = (
    "What answers at webservice_url isn't the central index, but a page (status {status}), as of a login portal, a firewall "
    "or a proxy: let it pass this machine, or correct webservice_url."
)
_NO_JSON = (
    "What answers at webservice_url isn't the central index, which answers in JSON (status {status}): see whether a login "
    "portal, a firewall or a proxy stands before it."
)
_FAR_AHEAD = (
    "The central index holds a version of this study that lies more than a hundred years ahead (status 409), after which "
    "nothing could follow: ask whoever runs it."
)
_PROXY = "The proxy wants a login (status 407): put it into HTTPS_PROXY as http://USER:PASSWORD@HOST:PORT."


def classify(
    method: str,
    status: int,
    body: bytes,
    retry_after: str | None,
    now: float,
    *,
    json_seen: bool = False,
    versioned: bool = False,
) -> Outcome:
    """What an answer means; ``now`` in seconds since the epoch, for a Retry-After that names a date.

    ``json_seen``: this address has answered such a request with JSON before. ``versioned``: the request had a version, so
    that a 409 means that the index has a newer one, whatever it says besides.
    """
    text = as_text(body)
    if 200 <= status < 300:
        return _taken(method, status, text, json_seen)
    if method == "DELETE" and status in (404, 410):
        reason = f"There is nothing to delete at webservice_url (status {status}): see whether it is right."
        return Outcome(Kind.ABSENT, status, text, reason=reason, refusal=Refusal.ADDRESS)
    if status == 409:
        return _conflict(text, versioned, now)
    if status in _REJECTED:
        reason = (
            f"The central index rejected this study (status {status}): "
            "`cdc-indexer parked list --show-answer` shows why."
        )
        return Outcome(Kind.REJECTED, status, text, reason=reason)
    if status == 429 or status >= 500 or status in _STUDY_LATER or status < 200:
        seconds = parse_retry_after(retry_after, now)
        # A 5xx alone may be this study's own doing; with a Retry-After the index speaks of itself.
        busy = status == 429 or status < 200 or (status == 503 and seconds is not None)
        kind = Kind.RETRY_INDEX if busy else Kind.RETRY_STUDY
        reason = f"The central index is busy or failing (status {status})."
        return Outcome(kind, status, text, seconds, reason)
    refusal, reason = _why_held(status)
    return Outcome(Kind.HELD, status, text, reason=reason, refusal=refusal)


def _taken(method: str, status: int, text: str, json_seen: bool) -> Outcome:
    """A 2xx: accepted, unless the body says otherwise, or that somebody else has answered.

    The body decides and never Content-Type: the index in use answers JSON as text/html.
    """
    said = _parsed(text)
    if _says_error(said):
        reason = "The central index answers with status Error: correct key in config.json, or read its log."
        return Outcome(Kind.HELD, status, text, reason=reason, refusal=Refusal.KEY)
    if said is _NOT_JSON and _is_page(text):
        reason = _STRANGER.format(status=status)
        return Outcome(Kind.HELD, status, text, reason=reason, refusal=Refusal.STRANGER)
    # A deletion has an address of its own, where 204 is usual.
    if said is _NOT_JSON and json_seen and method != "DELETE":
        reason = _NO_JSON.format(status=status)
        return Outcome(Kind.HELD, status, text, reason=reason, refusal=Refusal.STRANGER)
    return Outcome(Kind.ACCEPTED, status, text)


def _conflict(text: str, versioned: bool, now: float) -> Outcome:
    said = _parsed(text)
    if versioned or (isinstance(said, dict) and _word(said.get("status")) == "stale"):
        version = said.get("version") if isinstance(said, dict) else None
        known = (
            version if isinstance(version, int) and not isinstance(version, bool) and version >= 0 else None
        )
        if known is not None and known > int(now * 1_000_000) + FAR_AHEAD:
            # Whatever followed it would be as far ahead, for good.
            return Outcome(Kind.HELD, 409, text, reason=_FAR_AHEAD, refusal=Refusal.OTHER)
        reason = "The central index holds a newer version of this study (status 409)."
        return Outcome(Kind.STALE, 409, text, reason=reason, version=known)
    reason = "The central index holds this study already (status 409)."
    return Outcome(Kind.ALREADY_THERE, 409, text, reason=reason)


def _why_held(status: int) -> tuple[Refusal, str]:
    if status in _WRONG_KEY:
        return (
            Refusal.KEY,
            f"The central index refuses the key (status {status}): correct key in config.json.",
        )
    if status in _WRONG_ADDRESS:
        return (
            Refusal.ADDRESS,
            f"There is no web service at webservice_url (status {status}): correct it in config.json.",
        )
    if status == 407:
        return Refusal.STRANGER, _PROXY
    if status < 400:
        return Refusal.REDIRECT, (
            f"The central index redirects (status {status}), which would carry the key to another address: "
            "put the final address into webservice_url."
        )
    return (
        Refusal.OTHER,
        f"The central index refuses every study (status {status}): ask whoever runs it.",
    )


def proxy_refuses(status: int, where: str) -> Outcome:
    """A proxy opens no way to the index: what that means. The status isn't the index's."""
    if status == 407:
        return Outcome(Kind.HELD, reason=_PROXY, refusal=Refusal.STRANGER)
    if status >= 500 or status in (408, 429):
        reason = f"The proxy {where} can't reach the central index (status {status})."
        return Outcome(Kind.RETRY_INDEX, reason=reason)
    reason = (
        f"The proxy {where} doesn't let us through to the central index (status {status}): have it allowed, "
        "or name the index in NO_PROXY."
    )
    return Outcome(Kind.HELD, reason=reason, refusal=Refusal.STRANGER)


# --- the body --------------------------------------------------------------------------------------------


def as_text(body: bytes) -> str:
    """A body as text: unfolded if it is compressed though nobody asked for that, and in whatever encoding JSON may have."""
    if body.startswith(_GZIP):
        try:
            body = zlib.decompressobj(wbits=31).decompress(body, _MAX_UNFOLDED_BYTES)
        except zlib.error:
            return ""
    if body.isascii() and b"\0" not in body:
        return body.decode("ascii")
    return body.decode(json.detect_encoding(body), "replace").removeprefix("\ufeff")


def _is_page(text: str) -> bool:
    low = text.lower().lstrip()
    if any(part in low for part in _PAGE_PARTS):
        return True
    for _ in range(_COMMENTS):
        if not low.startswith("<!--"):
            break
        low = low.partition("-->")[2].lstrip()
    return _PAGE_BEGINS.match(low) is not None


def is_json(text: str) -> bool:
    """Whether an answer is JSON, as far as it was read."""
    return _parsed(text) is not _NOT_JSON


def _parsed(text: str) -> Any:
    """What a body says, None for JSON that can't be taken to pieces, _NOT_JSON for what isn't JSON."""
    try:
        return json.loads(text)
    except RecursionError:
        return None
    except ValueError:
        # Cut at the limit: what it begins with has to do.
        return None if len(text) >= _MAX_UNFOLDED_BYTES and text.lstrip()[:1] in ("{", "[") else _NOT_JSON


def _says_error(said: Any) -> bool:
    """Whether a body is a JSON object whose ``status`` is "Error": the index in use says so for a bad key, with 200."""
    return isinstance(said, dict) and _word(said.get("status")) == "error"


def _word(value: object) -> str | None:
    return value.strip().lower() if isinstance(value, str) else None

"""Many studies in one POST, for a central index that takes arrays (``delivery.batch_size``)."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Sequence
from typing import Protocol
from uuid import UUID, uuid5

from cdc_indexer.delivery._meaning import classify
from cdc_indexer.delivery.webservice import MAX_ANSWER_BYTES, Request
from cdc_indexer.model.outcome import Kind, Outcome, Refusal

_NAMESPACE = UUID("1f1f0bb7-3a8c-5c0d-9d55-0a6fd4a8c0c9")

#: How much more of an answer is read for each study in the batch.
_ANSWER_BYTES_EACH = 512

#: What an index that doesn't take arrays may say to one, rather than that a study in it is wrong.
_NOT_ARRAYS = frozenset({400, 404, 405, 409, 411, 412, 413, 414, 415, 422, 501})

_NO_RESULTS = (
    "The central index answers a batch without one result for each study: "
    "set delivery.batch_size to 1 in config.json."
)


class Element(Protocol):
    """One study of a batch: its document, the key that makes it known again, and its version if it has one."""

    @property
    def body(self) -> bytes | None: ...
    @property
    def idempotency_key(self) -> str: ...
    @property
    def study_version(self) -> int | None: ...


def batch(
    elements: Sequence[Element], *, halves: bool = True, versioned: bool = True
) -> Generator[Request, Outcome, list[Outcome]]:
    """Sends the studies as one array: yields each request, is sent its outcome, returns one for each study, in order.

    Each element is the study's document, its ``idempotency_key``, and its ``study_version`` if it has one. The answer is 2xx
    for all of them, or a list with a status for each, alone or under ``results``. If the batch is refused as a whole:

    * ``halves``: it is sent again in halves, and a single one as an object, so that in the end only the study that is wrong
      is rejected, and none by an index that takes no arrays;
    * without: all of them get one outcome, the same object, of the kind RETRY_STUDY: each is to go alone, as an object.

    ``versioned``: the index keeps versions, so that a 409 for an element that has one means that there is a newer one.
    """
    keys = [element.idempotency_key for element in elements]
    whole = yield Request(
        b"[%b]" % b", ".join(map(_document, elements)),
        keys[0] if len(keys) == 1 else str(uuid5(_NAMESPACE, ",".join(keys))),
        max_answer_bytes=MAX_ANSWER_BYTES + _ANSWER_BYTES_EACH * len(keys),
    )
    if whole.kind is Kind.ACCEPTED:
        return _each(whole, elements, versioned)
    if not halves:
        if whole.status in _NOT_ARRAYS:
            reason = f"The central index refuses an array (status {whole.status}): each study goes alone."
            whole = whole._replace(kind=Kind.RETRY_STUDY, reason=reason, refusal=None)
        return [whole] * len(elements)
    # 409 for a whole batch doesn't say which of them are there already.
    if whole.kind not in (Kind.REJECTED, Kind.ALREADY_THERE, Kind.STALE):
        return [whole] * len(elements)
    if len(elements) == 1:
        one = elements[0]
        return [(yield Request(one.body, one.idempotency_key, version=one.study_version))]
    half = len(elements) // 2
    outcomes = yield from batch(elements[:half], versioned=versioned)
    stopped = next((one for one in outcomes if one.kind in (Kind.HELD, Kind.RETRY_INDEX)), None)
    if stopped is not None:
        return outcomes + [stopped] * (len(elements) - half)
    return outcomes + (yield from batch(elements[half:], versioned=versioned))


def refused_as_such(outcomes: Sequence[Outcome]) -> bool:
    """Whether these are the outcomes of an array that was refused as a whole."""
    first = outcomes[0]
    return (
        len(outcomes) > 1
        and first.status in _NOT_ARRAYS
        and first.kind is Kind.RETRY_STUDY
        and all(one is first for one in outcomes)
    )


def _document(element: Element) -> bytes:
    version = b"" if element.study_version is None else b', "version": %d' % element.study_version
    return b'%b, "idempotency_key": "%b"%b}' % (
        (element.body or b"{}")[:-1],
        element.idempotency_key.encode(),
        version,
    )


def _each(whole: Outcome, elements: Sequence[Element], versioned: bool) -> list[Outcome]:
    """The outcomes of a batch that the index has taken."""
    count = len(elements)
    try:
        said = json.loads(whole.answer)
    except (ValueError, RecursionError):
        said = None
    results = said.get("results") if isinstance(said, dict) else said
    if not isinstance(results, list) and whole.status != 207:
        return [whole] * count
    if not isinstance(results, list) or len(results) != count:
        # `[]` for all is what an index says that has nothing to say.
        if results == [] and whole.status != 207:
            return [whole] * count
        return [Outcome(Kind.HELD, whole.status, reason=_NO_RESULTS, refusal=Refusal.OTHER)] * count
    return [
        _one(result, versioned and element.study_version is not None)
        for result, element in zip(results, elements, strict=True)
    ]


def _one(result: object, versioned: bool) -> Outcome:
    status = result.get("status") if isinstance(result, dict) else result
    try:
        answer = json.dumps(result).encode()
    except RecursionError:  # it nests so deeply that it could just be read
        answer = b""
    if isinstance(status, str) and status.strip().lower() == "stale":
        status = 409
    if isinstance(status, int) and not isinstance(status, bool):
        if not 100 <= status <= 999:
            return Outcome(Kind.HELD, reason=_NO_RESULTS, refusal=Refusal.OTHER)
        return classify("POST", status, answer, None, time.time(), versioned=versioned)
    # {"status": "Ok"} or {"status": "Error"}, as for one study alone.
    return classify("POST", 200, answer, None, time.time())

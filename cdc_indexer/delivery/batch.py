"""Many studies in one POST, for a central index that takes arrays (``delivery.batch_size``)."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Sequence
from typing import Protocol
from uuid import UUID, uuid5

from cdc_indexer.delivery.webservice import MAX_ANSWER_BYTES, Request, classify
from cdc_indexer.model.outcome import Kind, Outcome

_NAMESPACE = UUID("1f1f0bb7-3a8c-5c0d-9d55-0a6fd4a8c0c9")

#: How much more of an answer is read for each study in the batch.
_ANSWER_BYTES_EACH = 512

_NO_RESULTS = (
    "The central index answers a batch without one result for each study: "
    "set delivery.batch_size to 1 in config.json."
)


class Element(Protocol):
    """One study of a batch: its document and the key that makes it known again."""

    @property
    def body(self) -> bytes | None: ...
    @property
    def idempotency_key(self) -> str: ...


def batch(elements: Sequence[Element]) -> Generator[Request, Outcome, list[Outcome]]:
    """Sends the studies as one array: yields each request, is sent its outcome, returns one for each study, in order.

    Each element is the study's document and its ``idempotency_key``. The answer is 2xx for all of them, or a list with
    a status for each, alone or under ``results``. A batch that is rejected as a whole is sent again in halves, so that in
    the end only the study that is wrong is.
    """
    keys = [element.idempotency_key for element in elements]
    documents = [
        b'%b, "idempotency_key": "%b"}' % ((element.body or b"{}")[:-1], key.encode())
        for element, key in zip(elements, keys, strict=True)
    ]
    whole = yield Request(
        b"[%b]" % b", ".join(documents),
        keys[0] if len(keys) == 1 else str(uuid5(_NAMESPACE, ",".join(keys))),
        max_answer_bytes=MAX_ANSWER_BYTES + _ANSWER_BYTES_EACH * len(keys),
    )
    if whole.kind is Kind.ACCEPTED:
        return _each(whole, len(elements))
    # 409 for a whole batch doesn't say which of them are there already.
    if len(elements) == 1 or whole.kind not in (Kind.REJECTED, Kind.ALREADY_THERE):
        return [whole] * len(elements)
    half = len(elements) // 2
    outcomes = yield from batch(elements[:half])
    stopped = next((one for one in outcomes if one.kind in (Kind.HELD, Kind.RETRY_INDEX)), None)
    if stopped is not None:
        return outcomes + [stopped] * (len(elements) - half)
    return outcomes + (yield from batch(elements[half:]))


def _each(whole: Outcome, count: int) -> list[Outcome]:
    """The outcomes of a batch that the index has taken."""
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
        return [Outcome(Kind.HELD, whole.status, reason=_NO_RESULTS)] * count
    return [_one(result) for result in results]


def _one(result: object) -> Outcome:
    status = result.get("status") if isinstance(result, dict) else result
    try:
        answer = json.dumps(result).encode()
    except RecursionError:  # it nests so deeply that it could just be read
        answer = b""
    if isinstance(status, int) and not isinstance(status, bool):
        if not 100 <= status <= 999:
            return Outcome(Kind.HELD, reason=_NO_RESULTS)
        return classify("POST", status, answer, None, time.time())
    # {"status": "Ok"} or {"status": "Error"}, as for one study alone.
    return classify("POST", 200, answer, None, time.time())

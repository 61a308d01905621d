"""Whether the central index would take our studies, asked without leaving one: findings for `check`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cdc_indexer.delivery.webservice import Webservice
from cdc_indexer.model.finding import Finding, failed, ok, warning
from cdc_indexer.model.outcome import Kind, Outcome

if TYPE_CHECKING:
    from cdc_indexer.model.settings import Settings

__all__ = ["probe"]

_TIMEOUT_SECONDS = 10.0

#: A certificate that ends within so many days is a warning; most are renewed a month before.
_DAYS_ENOUGH = 21

_GET_UNKNOWN = frozenset({404, 405, 410, 501})


def probe(settings: Settings) -> Iterator[Finding]:
    """Findings about the web service, its certificate, ours, and the key."""
    if settings.delivery.client_cert is not None:
        yield from _own_certificate(settings.delivery.client_cert)
    timeout = min(settings.delivery.timeout_seconds, _TIMEOUT_SECONDS)
    webservice = Webservice(
        settings.model_copy(
            update={"delivery": settings.delivery.model_copy(update={"timeout_seconds": timeout})}
        )
    )
    began = time.monotonic()
    try:
        outcome, ends = webservice.probe()
    finally:
        webservice.close()
    if outcome.status is None:
        message, _, remedy = outcome.reason.partition(": ")
        yield failed(
            "web service",
            f"{message.rstrip('.')}.",
            remedy[:1].upper() + remedy[1:]
            or "Correct webservice_url, or ask whoever runs the central index; studies wait until it is there.",
        )
    else:
        yield ok(
            "web service",
            f"It answers (status {outcome.status}, {(time.monotonic() - began) * 1000:.0f} ms).",
        )
    if ends is not None:
        yield _certificate("certificate", "The certificate of the central index", ends, "Let it be renewed.")
    if outcome.status is not None:
        yield _key(outcome, outcome.status)


def _key(outcome: Outcome, status: int) -> Finding:
    """What the answer to a GET with our key says of the key."""
    if outcome.kind is Kind.ACCEPTED and _is_list(outcome.answer):
        return ok("key accepted", "The central index knows the key.")
    if (outcome.kind is Kind.HELD and 200 <= status < 300) or status in (401, 403):
        return failed(
            "key accepted",
            f"The central index refuses the key (status {status}).",
            "Correct key in config.json: whoever runs the central index has it.",
        )
    if 300 <= status < 400:
        return failed(
            "key accepted",
            f"The central index redirects (status {status}): no study is sent, that would carry the key to another address.",
            "Put the final address into webservice_url.",
        )
    if outcome.kind in (Kind.RETRY_INDEX, Kind.RETRY_STUDY) and status not in _GET_UNKNOWN:
        return warning(
            "key accepted",
            f"Not testable now: the central index is busy or failing (status {status}).",
            "Run `check` again later.",
        )
    return warning(
        "key accepted",
        f"Not testable: this index's answer to a GET (status {status}) says nothing of the key.",
        "The first study shows it: with a wrong key or address the service says 'held' and sends nothing.",
    )


def _is_list(answer: str) -> bool:
    """The indexes that are known answer a good key with a list; a page for people says nothing."""
    try:
        return isinstance(json.loads(answer), list)
    except (ValueError, RecursionError):
        return False


def _own_certificate(path: Path) -> Iterator[Finding]:
    from cryptography import x509  # noqa: PLC0415 - only where there is one

    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        yield failed(
            "client certificate",
            f"{path} holds no certificate.",
            "Correct delivery.client_cert: one PEM file with the certificate and its key.",
        )
        return
    # not_valid_after_utc is of cryptography 42, the oldest that we take.
    ends = certificate.not_valid_after_utc.timestamp()
    yield _certificate("client certificate", "Our certificate", ends, "Ask for a new one.")


def _certificate(name: str, whose: str, ends: float, remedy: str) -> Finding:
    days = (ends - time.time()) / 86_400
    if days < 0:
        return failed(name, f"{whose} ended {-days:.0f} days ago.", remedy)
    if days < _DAYS_ENOUGH:
        return warning(name, f"{whose} ends in {days:.0f} days: then nothing can be sent.", remedy)
    return ok(name, f"{whose} is good for {days:.0f} days.")

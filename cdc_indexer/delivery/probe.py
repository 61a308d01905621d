"""Whether the central index would take our studies, asked without leaving one: findings for `check`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cdc_indexer.delivery.features import Known
from cdc_indexer.delivery.webservice import Webservice
from cdc_indexer.model.finding import Finding, Status, failed, later, ok, warning
from cdc_indexer.model.outcome import Kind, Outcome, Refusal

if TYPE_CHECKING:
    from cdc_indexer.model.settings import Settings

__all__ = ["probe"]

_TIMEOUT_SECONDS = 10.0

#: A certificate that ends within so many days is a warning; most are renewed a month before.
_DAYS_ENOUGH = 21

_NOTHING_THERE = frozenset({404, 410})
_GET_UNKNOWN = frozenset({405, 501})

#: Where an index says in words what it refuses, and how many of them are shown.
_WORDS = ("reason", "message", "error", "detail")
_MOST_CHARACTERS = 200


def probe(settings: Settings, known: Known | None = None) -> Iterator[Finding]:
    """Findings about the web service, its certificate, ours, and the key; what the index can is put into ``known``."""
    known = known if known is not None else Known()
    if settings.delivery.client_cert is not None:
        yield from _own_certificate(settings.delivery.client_cert)
    timeout = min(settings.delivery.timeout_seconds, _TIMEOUT_SECONDS)
    webservice = Webservice(
        settings.model_copy(
            update={"delivery": settings.delivery.model_copy(update={"timeout_seconds": timeout})}
        ),
        known,
    )
    began = time.monotonic()
    try:
        outcome, ends = webservice.probe()
    finally:
        webservice.close()
    if outcome.status in (None, 407):  # the latter a proxy says
        message, _, remedy = outcome.reason.partition(": ")
        yield failed(
            "web service",
            f"{message.rstrip('.')}.",
            remedy[:1].upper() + remedy[1:]
            or "Correct webservice_url, or ask whoever runs the central index; studies wait until it is there.",
        )
    elif outcome.status in _NOTHING_THERE:
        yield failed(
            "web service",
            f"There is nothing at webservice_url (status {outcome.status}).{_own_words(outcome, settings)}",
            "Correct webservice_url, its path too: whoever runs the central index has it.",
        )
        yield later("key accepted", "web service")
        return
    else:
        yield ok(
            "web service",
            f"It answers (status {outcome.status}, {(time.monotonic() - began) * 1000:.0f} ms).",
        )
    if ends is not None:
        yield _certificate("certificate", "The certificate of the central index", ends, "Let it be renewed.")
    if outcome.status not in (None, 407):
        key = _key(outcome, outcome.status, webservice.center, _own_words(outcome, settings))
        yield key
        if webservice.center is not None and webservice.center != settings.center:
            yield failed(
                "centre",
                f"The central index says that the key is that of centre {webservice.center!r}, and server.json says "
                f"{settings.center!r}.",
                "Correct server.json, or put this centre's key into config.json.",
            )
        if key.status is Status.OK:
            yield ok("index features", _features(known))


def _features(known: Known) -> str:
    """What the index can, beside taking studies one by one."""
    names = [f"batch={count}" if name == "batch" else name for name, count in sorted(known.features.items())]
    if not names:
        return "It takes studies one by one, and says nothing of versions, digests or reports."
    return f"It can: {', '.join(names)}."


def _own_words(outcome: Outcome, settings: Settings) -> str:
    """What the index itself says of a refusal, without our key. A GET with nothing but that is answered with no patient."""
    try:
        said = json.loads(outcome.answer)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(said, dict):
        return ""
    words = next((said[name] for name in _WORDS if isinstance(said.get(name), str)), "")
    text = words.replace(settings.key.get_secret_value(), "***")[:_MOST_CHARACTERS].strip()
    return f' It says: "{text}"' if text else ""


def _key(outcome: Outcome, status: int, center: str | None, words: str) -> Finding:
    """What the answer to a GET with our key says of the key."""
    if outcome.kind is Kind.ACCEPTED and _is_list(outcome.answer):
        whose = f", as that of centre {center}" if center is not None else ""
        return ok("key accepted", f"The central index knows the key{whose}.")
    if outcome.refusal is Refusal.KEY:
        return failed(
            "key accepted",
            f"The central index refuses the key (status {status}).{words}",
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
    if outcome.refusal is Refusal.STRANGER:
        return warning(
            "key accepted",
            f"Not testable: what answers a GET is a page for people (status {status}), of the index or of a login portal.",
            "If studies are held as not taken by the index, let the portal, firewall or proxy pass this machine.",
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

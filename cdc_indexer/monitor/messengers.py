"""The two ways of an alert: an email by SMTP, and a webhook signed as Standard Webhooks has it (standardwebhooks.com)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import smtplib
import ssl
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from email.message import EmailMessage
from email.utils import format_datetime
from typing import TYPE_CHECKING

import requests

from cdc_indexer import __version__
from cdc_indexer.model.alert_settings import webhook_key
from cdc_indexer.model.moment import for_people
from cdc_indexer.monitor.language import say
from cdc_indexer.monitor.terminal import printable
from cdc_indexer.monitor.texts import span

if TYPE_CHECKING:
    from pydantic import SecretStr

    from cdc_indexer.model.alert_settings import EmailSettings
    from cdc_indexer.monitor.alert import Alert
    from cdc_indexer.monitor.causes import Problem

__all__ = ["send_email", "send_webhook", "sign"]

_SECONDS = 15.0

_SUBJECT_CHARACTERS = 120


def send_email(settings: EmailSettings, alert: Alert) -> None:
    """In the language of the locale. Raises OSError, of which SMTPException is one, when the server doesn't take it."""
    context = ssl.create_default_context()
    if settings.tls == "tls":
        server: smtplib.SMTP = smtplib.SMTP_SSL(
            settings.host, settings.port, timeout=_SECONDS, context=context
        )
    else:
        server = smtplib.SMTP(settings.host, settings.port, timeout=_SECONDS)
    with server:
        if settings.tls == "starttls":
            server.starttls(context=context)
        if settings.user is not None and settings.password is not None:
            server.login(settings.user, settings.password.get_secret_value())
        server.send_message(_email(settings, alert))


def _email(settings: EmailSettings, alert: Alert) -> EmailMessage:
    message = EmailMessage()
    message["From"] = settings.sender
    message["To"] = ", ".join(settings.to)
    message["Subject"] = _subject(alert)
    message["Date"] = format_datetime(datetime.fromtimestamp(alert.at, timezone.utc))
    message["Message-ID"] = f"<{alert.id}@cdc-indexer>"
    # Nobody's holiday notice answers this (RFC 3834).
    message["Auto-Submitted"] = "auto-generated"
    parts = [say(f"The indexer of centre {alert.center}.")]
    if alert.problems:
        parts += _listed("What is wrong:", alert.problems, alert.at)
    if alert.over:
        parts += _listed("What is over:", alert.over, alert.at)
    if not alert.problems:
        parts += ["", say("All is well: studies go out as they are stored.")]
    message.set_content("\n".join(parts) + "\n")
    return message


def _listed(title: str, problems: Sequence[Problem], at: float) -> list[str]:
    lines = ["", say(title)]
    for problem in problems:
        since = ""
        if problem.since:
            began = datetime.fromtimestamp(problem.since, timezone.utc)
            since = say(f" (since {for_people(began)}, {span(at - problem.since)})")
        lines.append(f"- {printable(say(problem.message))}{since}")
    return lines


def _subject(alert: Alert) -> str:
    text = say(alert.problems[0].message if alert.problems else "It works again")
    return printable(f"[cdc-indexer {alert.center}] {text}")[:_SUBJECT_CHARACTERS]


def send_webhook(url: str, secret: SecretStr | None, alert: Alert) -> None:
    """Raises requests.RequestException, an OSError, when it isn't taken by a 2xx."""
    body = json.dumps(alert.to_json(), ensure_ascii=False).encode()
    at = int(time.time())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"cdc-indexer/{__version__}",
        "webhook-id": alert.id,
        "webhook-timestamp": str(at),
    }
    if secret is not None:
        headers["webhook-signature"] = sign(webhook_key(secret), alert.id, at, body)
    answer = requests.post(url, data=body, headers=headers, timeout=_SECONDS, allow_redirects=False)
    if not 200 <= answer.status_code < 300:
        raise requests.HTTPError(response=answer)


def sign(key: bytes, message_id: str, at: int, body: bytes) -> str:
    """The value of the header webhook-signature; ``at`` is the one of webhook-timestamp."""
    signed = hmac.new(key, f"{message_id}.{at}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(signed).decode()}"

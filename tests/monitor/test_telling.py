"""Who is told of a problem that lasts, and of its end: by email to a real SMTP server, by a webhook to a real receiver."""

from __future__ import annotations

import json
import smtplib
import threading
import time
from collections.abc import Callable, Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from pydantic import SecretStr
from standardwebhooks import Webhook

from cdc_indexer.flow.observer import Condition, Source
from cdc_indexer.flow.verdict import Gate
from cdc_indexer.model.alert_settings import webhook_key
from cdc_indexer.model.outcome import Refusal
from cdc_indexer.monitor.alerts import Lasting
from cdc_indexer.monitor.causes import Cause, Problem
from cdc_indexer.monitor.messengers import sign
from cdc_indexer.monitor.watch import Watch
from tests.indexer import wait_until
from tests.monitor.conftest import Site, make_settings, sample
from tests.ports import free_port
from tests.privacy import privacy

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
REFUSED = "The central index refuses the key (status 401): correct key in config.json."
AWAY = Problem(Cause.INDEX_AWAY, 1000.0, "It is away.")
HELD = Problem(Cause.KEY_REFUSED, 1000.0, "It is held.")
PAUSED = Problem(Cause.PAUSED, 1000.0, "Somebody asked for it.")


class Mailbox:
    """What a mail server was given; ``refusing``: it takes nothing."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self.refusing = False

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.refusing:
            return "451 later"
        assert isinstance(envelope.content, bytes)
        privacy.add_text("email", envelope.content)
        message = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        self.messages.append(message)
        return "250 OK"


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, int]]:
    box = Mailbox()
    port = free_port()
    server = Controller(box, hostname="127.0.0.1", port=port)
    server.start()
    yield box, port
    server.stop()


class Hook(ThreadingHTTPServer):
    """A receiver of webhooks: (headers, body) of each; answers with ``status``."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.status = 204
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                privacy.add_text("webhook", body)
                hook.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(hook.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDC_INDEXER_TEST_ALERTS_SECONDS", "0.2")
    monkeypatch.setenv("CDC_INDEXER_TEST_ALERTS_OVER_SECONDS", "0.2")
    monkeypatch.setattr("cdc_indexer.monitor.alerts._AGAIN_SECONDS", 0.1)


def ticks(watch: Watch, until: Callable[[], object], what: str) -> None:
    """As `run` does each second, until something has come."""

    def look() -> object:
        watch.sampled(sample())
        return until()

    wait_until(look, what=what)


# --- what lasts ------------------------------------------------------------------------------------------


def test_a_blink_tells_nobody_and_what_lasts_is_told_once() -> None:
    lasting = Lasting({}, 300, 60)
    assert lasting.look([AWAY], 0) is None
    assert lasting.look([], 10) is None
    assert lasting.look([AWAY], 20) is None
    assert lasting.look([AWAY], 319) is None, "it counts from when it came back"
    assert lasting.look([AWAY], 320) == ((AWAY,), ())
    assert lasting.look([AWAY], 1000) is None


def test_what_is_over_is_told_once_it_does_not_come_back() -> None:
    lasting = Lasting({}, 300, 60)
    lasting.look([AWAY], 0)
    lasting.look([AWAY], 300)
    assert lasting.look([], 330) is None
    assert lasting.look([AWAY], 355) is None, "a blink of health"
    assert lasting.look([], 360) is None
    assert lasting.look([], 414) is None
    assert lasting.look([], 415) == ((), (AWAY,))
    assert lasting.look([], 1000) is None


def test_two_at_a_time_and_what_somebody_did_himself() -> None:
    lasting = Lasting({}, 300, 60)
    lasting.look([AWAY, PAUSED], 0)
    lasting.look([AWAY, HELD, PAUSED], 100)
    assert lasting.look([AWAY, HELD, PAUSED], 300) == ((AWAY,), ())
    assert lasting.look([AWAY, HELD, PAUSED], 400) == ((AWAY, HELD), ())
    lasting.look([HELD], 401)
    assert lasting.look([HELD], 461) == ((HELD,), (AWAY,))


# --- by which ways ---------------------------------------------------------------------------------------


def test_an_email_when_it_lasts_and_one_when_it_is_over(
    mailbox: tuple[Mailbox, int], make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    box, port = mailbox
    email = {"to": ["it@hospital.example", "on-call@hospital.example"], "sender": "indexer@hospital.example"}
    site = make_site(alerts={"email": {**email, "host": "127.0.0.1", "port": port}})
    site.watch.source(Source.UP, "")
    box.refusing = True
    site.watch.gate(Gate.HELD, REFUSED, Refusal.KEY)
    site.watch.condition(Condition.PAUSED, "Somebody asked for it")
    ticks(site.watch, lambda: (site.settings.state_dir / "alerts.json").exists(), "it is noticed")
    box.refusing = False
    ticks(site.watch, lambda: box.messages, "told, though the server took it late")
    problem = box.messages[0]
    assert problem["To"] == "it@hospital.example, on-call@hospital.example"
    assert problem["Subject"] == f"[cdc-indexer 104] {REFUSED}"
    assert problem["Auto-Submitted"] == "auto-generated"
    text = problem.get_content()
    assert "centre 104" in text
    assert f"- {REFUSED} (since " in text
    assert "Somebody" not in text
    site.watch.gate(Gate.OPEN, "")
    monkeypatch.setattr("cdc_indexer.monitor.language._language", "es")
    ticks(site.watch, lambda: len(box.messages) == 2, "over")
    assert box.messages[1]["Subject"] == "[cdc-indexer 104] Funciona de nuevo"
    assert "Lo que ya pasó:\n- El índice central rechaza la clave (estado 401)" in box.messages[
        1
    ].get_content().replace("\r", "")


def test_a_webhook_that_is_signed(hook: Hook, make_site: Callable[..., Site]) -> None:
    privacy.add_secret(SECRET)
    hook.status = 503
    url = f"http://127.0.0.1:{hook.server_port}/"
    site = make_site(alerts={"webhook": url, "webhook_secret": SECRET})
    site.watch.source(Source.UP, "")
    site.watch.gate(Gate.AWAY, "The central index is away")
    ticks(site.watch, lambda: len(hook.got) >= 2, "tried again")
    hook.status = 204
    tried = len(hook.got)
    ticks(site.watch, lambda: len(hook.got) > tried, "taken")
    site.watch.gate(Gate.OPEN, "")
    ticks(site.watch, lambda: b"recovered" in hook.got[-1][1], "over")
    for headers, body in hook.got:
        Webhook(SECRET).verify(body.decode(), headers)
    assert len({headers["webhook-id"] for headers, _ in hook.got}) == 2, "the same id for each try"
    said = json.loads(hook.got[0][1])
    assert said["type"] == "cdc_indexer.problem"
    assert said["data"]["center"] == "104"
    assert said["data"]["state"] == "failed"
    assert [one["cause"] for one in said["data"]["problems"]] == ["index_away"]
    said = json.loads(hook.got[-1][1])
    assert (said["type"], said["data"]["state"], said["data"]["problems"]) == (
        "cdc_indexer.recovered",
        "ok",
        [],
    )
    assert [one["message"] for one in said["data"]["over"]] == ["The central index is away."]


def test_the_signature_is_that_of_the_specification() -> None:
    """The example of standard-webhooks.com."""
    key = webhook_key(SecretStr(SECRET))
    signed = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_restart_neither_repeats_nor_forgets(hook: Hook, tmp_path: Path) -> None:
    settings = make_settings(
        tmp_path, monitor={"listen": None}, alerts={"webhook": f"http://127.0.0.1:{hook.server_port}/"}
    )
    first = Watch()
    first.started(settings)
    first.source(Source.UP, "")
    first.gate(Gate.AWAY, "Away")
    ticks(first, lambda: hook.got, "told")
    first.stopped(None)
    again = Watch()
    again.started(settings)
    again.source(Source.UP, "")
    again.gate(Gate.AWAY, "Away")
    began = time.monotonic()
    ticks(again, lambda: time.monotonic() - began > 1, "some time")
    assert len(hook.got) == 1
    again.gate(Gate.OPEN, "")
    ticks(again, lambda: len(hook.got) == 2, "over")
    again.stopped(None)
    assert "webhook-signature" not in hook.got[0][0], "without a secret"


def test_a_mail_server_that_hangs_holds_nobody_up(
    make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    called = threading.Event()
    release = threading.Event()

    def hang(*_: Any, **__: Any) -> smtplib.SMTP:
        called.set()
        release.wait(20)
        raise OSError

    monkeypatch.setattr(smtplib, "SMTP", hang)
    site = make_site(alerts={"email": {"to": "a@b.example", "sender": "c@d.example"}})
    site.watch.source(Source.UP, "")
    site.watch.gate(Gate.AWAY, "Away")
    ticks(site.watch, called.is_set, "it hangs")
    began = time.monotonic()
    site.watch.sampled(sample())
    site.watch.stopped(None)
    assert time.monotonic() - began < 5
    release.set()

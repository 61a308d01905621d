"""The status page over real sockets: what it says, to whom, and that no client can do it harm."""

from __future__ import annotations

import re
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cdc_indexer.flow.observer import Source
from cdc_indexer.flow.verdict import Gate
from cdc_indexer.model.errors import StorageError
from cdc_indexer.model.outcome import Refusal
from cdc_indexer.model.program import called
from cdc_indexer.monitor import page
from cdc_indexer.monitor.causes import Cause
from cdc_indexer.monitor.texts import CAUSES, TEXTS, size, span, wanted_language
from cdc_indexer.monitor.watch import Watch
from tests.indexer import wait_until
from tests.monitor.conftest import Site, make_settings, sample

HELD = "The central index refuses the key (status 401): correct key in config.json."


def hold(watch: Watch, reason: str = HELD) -> None:
    watch.gate(Gate.HELD, reason, Refusal.KEY)


def working(watch: Watch) -> None:
    watch.source(Source.UP, "")
    watch.caught_up()
    watch.sampled(sample())


def clients() -> int:
    return sum(thread.name == "client" for thread in threading.enumerate())


# --- what it says ----------------------------------------------------------------------------------------


def test_the_page_says_in_one_sentence_that_all_is_well(site: Site) -> None:
    working(site.watch)
    answer = site.get()
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    for text in ("Healthy", TEXTS["en"]["fine"], "Centre 104", "mysql-bin.000417:73400211", "0.1.0"):
        assert text in answer.text


def test_the_page_says_what_is_wrong_and_what_to_do(site: Site) -> None:
    working(site.watch)
    hold(site.watch)
    text = site.get().text
    assert "Not healthy" in text
    assert HELD in text
    spanish = site.get(**{"Accept-Language": "es-CL,es;q=0.9,en;q=0.8"}).text
    assert '<html lang="es">' in spanish
    assert "El índice central rechaza la clave" in spanish
    assert "rechaza la clave (estado 401): corrija key en config.json." in spanish, "the detail isn't lost"
    assert HELD not in spanish
    # A sentence that has no Spanish one is shown as it is, below what the page knows of its cause.
    site.watch.gate(Gate.HELD, "Something new", Refusal.KEY)
    spanish = site.get("/?lang=es").text
    assert '<span lang="en">Something new.</span>' in spanish
    assert "El índice central rechaza la clave" in spanish
    site.watch.gate(Gate.OPEN, "")
    assert TEXTS["en"]["fine"] in site.get().text


def test_parked_studies_are_shown_with_their_reasons(site: Site) -> None:
    working(site.watch)
    site.watch.sampled(sample(parked=3, parked_reasons=(("rejected (status 422)", 2), ("no study_iuid", 1))))
    text = site.get().text
    assert "Healthy, but somebody should look" in text
    assert "Rejected (status 422)." in text
    assert f"<code>{called()} parked list</code>" in text
    assert site.get("/readyz").status_code == 200


def test_the_last_comparison_is_shown(site: Site) -> None:
    working(site.watch)
    assert "none yet" in site.get().text
    last = {
        "at": "2026-11-28T00:50:00Z",
        "compared": 1000,
        "equal": 997,
        "missing": 2,
        "stale": 1,
        "extra": 4,
    }
    site.watch.compared({**last, "kept": 5, "healed": 6, "held": "59 studies", "index": False, "seconds": 61})
    for language, words in (
        (
            "en",
            "1,000 compared in 1 min: 997 equal, 2 missing, 1 stale, 4 extra; 6 healed; 5 kept; held; ",
        ),
        (
            "es",
            "comparados: 1.000 en 1 min; iguales: 997, faltantes: 2, distintos: 1, sobrantes: 4; corregidos: 6; "
            "conservados: 5",
        ),
    ):
        assert words in site.get(f"/?lang={language}").text


@pytest.mark.parametrize("path", ["/", "/?lang=es", "/status.json", "/metrics", "/readyz"])
def test_everything_is_escaped(make_site: Callable[..., Site], path: str) -> None:
    site = make_site()
    evil = "<script>alert(1)</script>\"'&"
    working(site.watch)
    hold(site.watch, evil)
    site.watch.sampled(sample(position=evil, server=evil, parked=1, parked_reasons=((evil, 1),)))
    answer = site.get(path)
    if answer.headers["Content-Type"].startswith("text/html"):
        assert "<script>alert" not in answer.text
        assert "&lt;script&gt;" in answer.text
    else:
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_nothing_comes_from_elsewhere_and_nothing_is_inline(site: Site) -> None:
    working(site.watch)
    for _ in range(3):
        site.watch._hour.add(time.monotonic())
    answer = site.get()
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert re.findall(r"(?:src|href)=\"(?!/|\?)[^\"]*\"", answer.text) == []
    assert not re.search(r"<style|style=|<script>|\son\w+=", answer.text)
    assert "<svg" in answer.text
    for name in re.findall(r'"(/static/[^"]+)"', answer.text):
        found = site.get(name)
        assert found.status_code == 200
        assert "http" not in found.text.replace("http://www.w3.org/2000/svg", "")


class _Balanced(HTMLParser):
    VOID = frozenset({"meta", "link", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_html_is_whole_whatever_is_known(site: Site) -> None:
    for step in range(3):
        if step == 1:
            working(site.watch)
            hold(site.watch)
        if step == 2:
            site.watch.sampled(sample(parked=2, parked_reasons=(("a", 2),), lag_seconds=3700, lag_bytes=None))
            site.watch._hour.add(time.monotonic())
        for language in ("en", "es"):
            parser = _Balanced()
            parser.feed(site.get(f"/?lang={language}").text)
            assert parser.open == []
            assert len(parser.ids) == len(set(parser.ids))


def test_the_rate_of_the_last_hour(site: Site) -> None:
    working(site.watch)
    assert TEXTS["en"]["rate_none"] in site.get().text
    now = time.monotonic()
    for minutes, count in ((0, 2), (10, 5), (59, 1), (61, 9)):
        for _ in range(count):
            site.watch._hour.add(now - 60 * minutes)
    minutes_counted = site.watch._hour.counts(now)
    assert sum(minutes_counted) in (8, 17), "what is older than an hour doesn't count"
    site.watch._hour = type(site.watch._hour)()
    for minutes, count in ((61, 9), (59, 1), (10, 5), (0, 2)):
        for _ in range(count):
            site.watch._hour.add(now - 60 * minutes)
    assert sum(site.watch._hour.counts(now)) == 8
    text = site.get().text
    assert "Studies in the last hour: 8. Peak: 5 in a minute." in text
    assert text.count("<rect ") == 3


@pytest.mark.parametrize(
    ("header", "asked", "language"),
    [
        ("", "", "en"),
        ("es", "", "es"),
        ("es-CL,es;q=0.9", "", "es"),
        ("de, es;q=0.5", "", "es"),
        ("en;q=0.4, es;q=0.5", "", "es"),
        ("es;q=0", "", "en"),
        ("es;q=x", "", "en"),
        ("fr", "", "en"),
        ("es", "en", "en"),
        ("en", "xx", "en"),
        ("," * 10_000, "", "en"),
    ],
)
def test_the_language_is_the_browsers(header: str, asked: str, language: str) -> None:
    assert wanted_language(header, asked) == language


def test_both_languages_say_everything() -> None:
    assert TEXTS["en"].keys() == TEXTS["es"].keys()
    assert set(CAUSES) == set(Cause)
    assert [size(n, "es") for n in (0, 999, 1500, 2_345_678, 10**15)] == [
        "0 B",
        "999 B",
        "1,5 kB",
        "2,3 MB",
        "1000 TB",
    ]
    assert [span(n) for n in (-1, 59, 60, 3700, 100_000)] == ["0 s", "59 s", "1 min", "1 h 1 min", "1 d 3 h"]


# --- for machines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "ready"),
    [
        (lambda watch: watch.sampled(sample()), True),
        (lambda watch: watch.sampled(sample(lag_seconds=9999.0, lag_bytes=10**9)), True),
        (lambda watch: watch.source(Source.AWAY, "The database is away."), False),
        (lambda watch: watch.source(Source.DEGRADED, "There is no binary log."), False),
        (lambda watch: watch.source(Source.SCHEMA, "The view is gone."), False),
        (lambda watch: watch.source(Source.CLASH, "Another replica."), False),
        (lambda watch: watch.gate(Gate.AWAY, "The index is away."), False),
        (hold, False),
        (lambda watch: watch.storage(StorageError("The disk is full.")), False),
        (lambda watch: watch.verification("The view can't be read."), False),
    ],
)
def test_ready_means_that_a_study_stored_now_arrives_now(
    site: Site, what: Callable[[Watch], Any], ready: bool
) -> None:
    assert site.get("/readyz").status_code == 503, "it has just started"
    working(site.watch)
    what(site.watch)
    answer = site.get("/readyz")
    assert answer.status_code == (200 if ready else 503), answer.text
    assert site.get("/healthz").status_code == 200, "whoever waits is alive"
    assert site.get("/status.json").json()["healthy"] is ready


def test_alive_means_that_the_loop_moves(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    working(site.watch)
    site.watch.sampled(sample(idle_seconds=301.0))
    assert site.get("/healthz").status_code == 503
    assert "report this as a bug" in site.get("/readyz").text
    # It waits for an index that is away, or for a disk: that is no reason to restart it.
    site.watch.sampled(sample(idle_seconds=9999.0, blocked=True))
    assert site.get("/healthz").status_code == 200
    site.watch.sampled(sample(idle_seconds=9999.0))
    assert site.get("/healthz").status_code == 503
    # The main thread itself says nothing any more.
    site.watch.sampled(sample())
    now = time.monotonic()
    monkeypatch.setattr(site.watch.health, "_monotonic", lambda: now + 31)
    assert site.get("/healthz").status_code == 503


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"POST / HTTP/1.1", 405),
        (b"DELETE /metrics HTTP/1.1", 405),
        (b"HEAD / HTTP/1.1", 405),
        (b"GET /nothing HTTP/1.1", 404),
        (b"GET /static/../page.py HTTP/1.1", 404),
        (b"GET /static/%2e%2e/page.py HTTP/1.1", 404),
        (b"GET //host/ HTTP/1.1", 404),
        (b"GET http://elsewhere/ HTTP/1.1", 400),
        (b"GET //[ HTTP/1.1", 404),
        (b"GET /", 400),
        (b"GET / HTTP/9", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"", 400),
        (b"GET / HTTP/1.0", 200),
    ],
)
def test_odd_requests(site: Site, request_line: bytes, status: int) -> None:
    answer = site.say(request_line + b"\r\n\r\n")
    assert answer.split(b" ")[1] == b"%d" % status, answer[:100]
    assert b"Traceback" not in answer
    assert site.get("/healthz").status_code == 200


def test_the_body_of_a_post_is_not_even_read(site: Site) -> None:
    with site.connect() as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n")
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert b"Allow: GET" in answer


# --- clients that mean no good ---------------------------------------------------------------------------


def test_a_head_without_end_is_cut(site: Site) -> None:
    with site.connect() as connection:
        try:
            for _ in range(200):
                connection.sendall(b"X-Header: " + b"a" * 1000 + b"\r\n")
            answer = connection.recv(100)
        except ConnectionError:
            answer = b""
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")
    wait_until(lambda: clients() == 0, 5, "its thread ended")


def test_a_client_that_says_nothing_is_sent_away(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "HEAD_SECONDS", 0.3)
    began = time.monotonic()
    with site.connect() as connection:
        connection.sendall(b"GET / HT")
        # One byte now and then doesn't prolong it.
        while not select.select([connection], [], [], 0.05)[0]:
            connection.sendall(b"T")
            assert time.monotonic() - began < 3
        assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_many_idle_clients_neither_block_it_nor_grow_it(site: Site) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(site.connect()) for _ in range(3 * page.CLIENTS)]
        for connection in idle:
            connection.sendall(b"GET / HTTP/1.1\r\n")
        for _ in range(3):
            began = time.monotonic()
            assert site.get("/healthz").status_code == 200
            assert time.monotonic() - began < 2
        assert clients() <= page.CLIENTS


def test_a_client_that_takes_nothing_is_sent_away(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "ANSWER_SECONDS", 0.3)
    site.watch.expose = lambda accept: (b"x" * 50_000_000, "text/plain")  # type: ignore[method-assign]
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", site.port))
        connection.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        wait_until(lambda: clients() > 0, 5, "it is being served")
        wait_until(lambda: clients() == 0, 5, "its thread ended")
    assert site.get("/healthz").status_code == 200


def test_an_error_of_the_page_is_no_error_of_the_service(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    died: list[object] = []
    monkeypatch.setattr(threading, "excepthook", died.append)

    def fail(accept: str) -> tuple[bytes, str]:
        raise RuntimeError("26267267-K")

    site.watch.expose = fail  # type: ignore[method-assign]
    answer = site.get("/metrics")
    assert answer.status_code == 500
    assert "26267267-K" not in answer.text + capsys.readouterr().out
    assert died == []
    assert site.get("/healthz").status_code == 200


# --- its life --------------------------------------------------------------------------------------------


def test_a_busy_port_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        watch = Watch()
        watch.started(make_settings(tmp_path, monitor={"listen": listen}))
        watch.sampled(sample())
        watch.stopped(None)
    said = capsys.readouterr().out
    assert "there is no status page" in said
    assert listen in said


@pytest.mark.parametrize("listen", ["no.such.host.invalid:9108", f"{'a' * 70}.b:9108", "192.0.2.1:9108"])
def test_an_address_that_isnt_ours_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], listen: str
) -> None:
    watch = Watch()
    watch.started(make_settings(tmp_path, monitor={"listen": listen}))
    watch.stopped(None)
    assert "there is no status page" in capsys.readouterr().out


def test_an_ipv6_address(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6 on loopback")
        port = probe.getsockname()[1]
    watch = Watch()
    watch.started(make_settings(tmp_path, monitor={"listen": f"[::1]:{port}"}))
    assert watch._page is not None
    assert watch._page.url == f"http://[::1]:{port}/"
    with socket.create_connection(("::1", port), timeout=5) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
    watch.stopped(None)


def test_another_address_after_the_files_were_read_again(site: Site, make_site: Callable[..., Site]) -> None:
    del make_site
    moved = site.settings.model_copy(
        update={"monitor": site.settings.monitor.model_copy(update={"listen": None})}
    )
    site.watch.reconfigured(moved)
    with pytest.raises(ConnectionError):
        site.connect()
    site.watch.reconfigured(site.settings)
    assert site.get("/healthz").status_code == 200


def test_it_ends_with_its_clients(site: Site) -> None:
    with site.connect() as connection:
        connection.sendall(b"GET / ")
        wait_until(lambda: clients() > 0, 5, "a client")
        began = time.monotonic()
        site.watch.stopped(None)
        assert time.monotonic() - began < 2
        assert connection.recv(10) == b""

"""A running service as people and machines see it: page, metrics, status.json and log, on a real database."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from cdc_indexer.model.settings import load_settings
from cdc_indexer.monitor import offline, status
from cdc_indexer.monitor.report import Report
from tests.indexer import Indexer, wait_until
from tests.monitor.conftest import fetch
from tests.monitor.test_metrics import numbers, value
from tests.pacs import Pacs
from tests.ports import free_port
from tests.receiver import Answer, Receiver
from tests.servers import Server

pytestmark = pytest.mark.one_server

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def indexer(pacs: Pacs, receiver: Receiver, tmp_path: Path, port: int) -> Iterator[Indexer]:
    one = Indexer(
        tmp_path / "indexer",
        pacs,
        receiver.url,
        delivery={"settle_seconds": 0.3},
        monitor={"listen": f"127.0.0.1:{port}"},
    )
    yield one
    one.close()


def seen(port: int) -> dict[str, Any]:
    """The report that the page gives; {} while nobody answers."""
    try:
        answer: dict[str, Any] = fetch(f"http://127.0.0.1:{port}/status.json").json()
    except requests.ConnectionError:
        return {}
    return answer


def said(indexer: Indexer, event: str) -> list[dict[str, Any]]:
    """The lines of the log about something."""
    lines = [json.loads(line) for line in indexer.log.splitlines() if line.startswith('{"timestamp"')]
    return [line for line in lines if line["event"].startswith(event)]


def asked(indexer: Indexer) -> tuple[int, dict[str, Any]]:
    """Exit status of `status --json` and what it printed."""
    done = indexer.run("status", "--json")
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def report_of(indexer: Indexer) -> Report:
    """What `status` shows, in this process."""
    return status.report(load_settings(indexer.directory / "config.json", {}))


def test_what_a_running_service_shows(pacs: Pacs, receiver: Receiver, indexer: Indexer, port: int) -> None:
    receiver.for_studies(["1.9"], Answer(422))
    url = f"http://127.0.0.1:{port}"
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        for number in range(3):
            pacs.store_study(f"1.{number}", patient_name="ÑAÑCO^LUIS", patient_id="11222333-4")
        pacs.store_study("1.9")
        wait_until(lambda: seen(port).get("parked") == 1, what="parked")
        wait_until(lambda: seen(port)["waiting"] == 0, what="all is done")
        wait_until(lambda: seen(port)["seconds_behind"] == 0, what="nothing waits")
        wait_until(lambda: seen(port)["bytes_behind"] == 0, what="the log is dealt with")
        report = seen(port)
        assert (report["healthy"], report["state"], report["connected"]) == (True, "warning", True)
        assert (report["delivered"], report["caught_up"], report["center"]) == (3, True, "007")
        assert re.fullmatch(r"\S+\.\d+:\d+", report["position"])
        assert sum(report["last_hour"]) == 3
        assert "422" in report["last_error"]["message"]
        assert [one["count"] for one in report["parked_reasons"]] == [1]
        found = numbers(fetch(f"{url}/metrics").text)
        assert value(found, "studies_total", outcome="accepted") == 3
        assert value(found, "studies_total", outcome="parked") == 1
        assert value(found, "rows_read_total") == 4
        assert value(found, "binlog_read_bytes_total") > 500
        assert value(found, "delay_seconds_count", version="first") == 3
        assert value(found, "delay_seconds_sum", version="first") < 30
        assert value(found, "connections_total") == 1
        assert abs(value(found, "database_clock_difference_seconds")) < 5
        for path in ("/", "/?lang=es"):
            assert "1.9" not in fetch(url + path).text.replace("0.1.9", ""), "no study is named"
        assert fetch(f"{url}/readyz").text == "ready\n"
        code, printed = asked(indexer)
        assert code == 0
        assert printed["delivered"] == 3
        text = indexer.run("status").stdout
        for name in (
            "state",
            "position",
            "bytes behind",
            "seconds behind",
            "delivered",
            "parked",
            "held",
            "last error",
        ):
            assert re.search(rf"^{name} +\S", text, re.MULTILINE), name
        assert not (indexer.state_dir / "status.json").stat().st_mode & 0o077


def test_held_is_seen_everywhere_and_ends_by_itself(
    pacs: Pacs, receiver: Receiver, indexer: Indexer, port: int
) -> None:
    url = f"http://127.0.0.1:{port}"
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        receiver.always(Answer(401))
        pacs.store_study("1.1")
        wait_until(lambda: seen(port)["held"], what="held")
        ready = fetch(f"{url}/readyz")
        assert ready.status_code == 503
        assert "correct key in config.json" in ready.text
        assert fetch(f"{url}/healthz").status_code == 200
        assert value(numbers(fetch(f"{url}/metrics").text), "held", reason="key_refused") == 1
        wait_until(lambda: (seen(port)["seconds_behind"] or 0) > 1, what="the study waits")
        code, report = asked(indexer)
        assert code == 1
        assert "correct key" in report["held"]["message"]
        receiver.normal()
        wait_until(lambda: fetch(f"{url}/readyz").status_code == 200, what="mended")
        wait_until(lambda: report_of(indexer).healthy, what="status says so")
    assert len(said(indexer, "held")) == 1
    assert len(said(indexer, "the central index accepts")) == 1


def test_status_works_without_a_page(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    indexer.settings["monitor"] = {"listen": None}
    indexer.write_files()
    code, report = asked(indexer)
    assert (code, report["running"]) == (1, False)
    assert "start `run`" in report["message"]
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        pacs.store_study("1.1")
        wait_until(lambda: report_of(indexer).delivered == 1, what="delivered")
        assert asked(indexer)[0] == 0
        receiver.refuse()
        pacs.store_study("1.2")
        wait_until(lambda: not report_of(indexer).healthy, what="the index is away")
        assert asked(indexer)[0] == 1
    code, report = asked(indexer)
    assert (code, report["running"], report["delivered"], report["waiting"]) == (1, False, 1, 1)
    assert [problem["cause"] for problem in report["problems"]] == ["not_running"]
    assert report["bytes_behind"] > 0
    assert report["seconds_behind"] > 0
    checkpoint = indexer.checkpoint()
    assert checkpoint is not None
    assert report["position"] == str(checkpoint.position)
    indexer.settings["database"]["port"] = free_port()
    indexer.write_files()
    code, report = asked(indexer)
    assert code == 1
    assert [problem["cause"] for problem in report["problems"]] == ["not_running", "database_away"]


def test_for_who_lets_cron_do_it_no_service_is_no_fault(
    pacs: Pacs, receiver: Receiver, indexer: Indexer, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.for_studies(["1.9"], Answer(422))
    pacs.store_study("1.1")
    pacs.store_study("1.9")
    assert indexer.run("run", "--until-caught-up").returncode == 0, indexer.log
    code, report = asked(indexer)
    assert (code, report["delivered"], report["parked"], report["state"]) == (0, 1, 1, "warning")
    pacs.store_study("1.2")
    code, report = asked(indexer)
    assert (code, report["waiting"]) == (0, 1)
    monkeypatch.setattr(offline, "LATE_SECONDS", 0.001)
    late = report_of(indexer)
    assert not late.healthy
    assert "1 row waits" in late.message
    assert "cron" in late.message


def test_a_service_that_has_ceased_to_speak(indexer: Indexer, monkeypatch: pytest.MonkeyPatch) -> None:
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        wait_until(lambda: report_of(indexer).healthy, what="healthy")
        monkeypatch.setattr(status, "STALE_SECONDS", -1.0)
        report = report_of(indexer)
        assert not report.healthy
        assert "stuck" in report.message


def test_a_state_that_can_not_be_used(pacs: Pacs, indexer: Indexer) -> None:
    pacs.store_study("1.1")
    assert indexer.run("run", "--until-caught-up").returncode == 0, indexer.log
    path = indexer.state_dir / "checkpoint.json"
    copy, position = path.read_text(), asked(indexer)[1]["position"]
    # A copy for people: nothing depends on it.
    path.write_text("{}")
    assert asked(indexer)[1]["problems"] == []
    (indexer.state_dir / "state.sqlite").write_bytes(b"torn")
    code, report = asked(indexer)
    assert (code, report["position"]) == (1, None)
    assert report["problems"][0]["cause"] == "checkpoint"
    # Where the state can't be asked, the copy says how far it was; what waits it doesn't know.
    path.write_text(copy)
    code, report = asked(indexer)
    assert (code, report["position"], report["waiting"]) == (1, position, None)


def test_a_database_without_a_log_and_one_that_is_away(
    new_server: Callable[..., Server], receiver: Receiver, tmp_path: Path, port: int
) -> None:
    server = new_server("--skip-log-bin")
    pacs = Pacs.create(server)
    one = Indexer(
        tmp_path / "indexer",
        pacs,
        receiver.url,
        monitor={"listen": f"127.0.0.1:{port}"},
        delivery={"settle_seconds": 0.3},
    )
    url = f"http://127.0.0.1:{port}"

    def causes() -> list[str]:
        return [problem["cause"] for problem in seen(port).get("problems", [])]

    try:
        one.start()
        wait_until(lambda: causes() == ["degraded"], what="degraded")
        assert fetch(f"{url}/readyz").status_code == 503
        pacs.store_study("1.1")
        wait_until(lambda: seen(port)["delivered"] == 1, what="it is delivered all the same")
        wait_until(lambda: seen(port)["seconds_behind"] == 0, what="nothing waits")
        pacs.close()
        server.stop()
        wait_until(lambda: causes() == ["database_away"], what="away")
        assert fetch(f"{url}/healthz").status_code == 200, "whoever waits for the database is alive"
        wait_until(
            lambda: (seen(port)["seconds_behind"] or 0) > 1, what="nobody knows what was committed since"
        )
        server.start()
        wait_until(lambda: causes() == ["degraded"], what="there again")
        assert one.stop() == 0
    finally:
        one.close()


def test_a_busy_port_is_a_warning_and_who_needs_none_opens_none(
    pacs: Pacs, receiver: Receiver, indexer: Indexer, port: int
) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        pacs.store_study("1.1")
        assert indexer.run("run", "--until-caught-up").returncode == 0, indexer.log
        assert indexer.run("initial").returncode == 0, indexer.log
        assert "status page" not in indexer.log
        with indexer.running():
            wait_until(lambda: indexer.caught_up, what="caught up")
            pacs.store_study("1.2")
            wait_until(lambda: "1.2" in receiver.study_iuids(), what="it goes on without a page")
    (warning,) = said(indexer, "there is no status page")
    assert warning["level"] == "warning"
    assert str(port) in warning["reason"]


def test_rows_that_only_the_table_shows_are_counted(
    pacs: Pacs, receiver: Receiver, indexer: Indexer, port: int
) -> None:
    indexer.settings["stream"] = {"audit_seconds": 0.3}
    indexer.write_files()
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        pacs.execute("SET SESSION sql_log_bin = 0")
        pacs.store_study("1.1")
        wait_until(lambda: "1.1" in receiver.study_iuids(), what="the audit")
        found = numbers(fetch(f"http://127.0.0.1:{port}/metrics").text)
        assert value(found, "audit_rows_total") == 1
        assert value(found, "audits_total") >= 2


def test_the_containers_health_check(indexer: Indexer, port: int) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text().partition(" AS indexer")[2]
    found = re.search(r"HEALTHCHECK[^[]*CMD (\[.*\])$", dockerfile, re.MULTILINE | re.DOTALL)
    assert found is not None
    command = json.loads(found[1].partition("\n")[0])
    assert command[0] == "python"
    healthy = [sys.executable, *(word.replace("9108", str(port)) for word in command[1:])]
    assert healthy[-1] != command[-1]
    assert re.search(r"^USER (?!0|root)", dockerfile, re.MULTILINE)

    def check() -> int:
        return subprocess.run(healthy, stderr=subprocess.DEVNULL, timeout=30, check=False).returncode

    assert check() == 1
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        assert check() == 0


def test_every_line_of_the_log_is_json_and_says_one_event(
    pacs: Pacs, receiver: Receiver, indexer: Indexer, port: int
) -> None:
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        # What the log doesn't show, the audit finds.
        pacs.execute("SET SESSION sql_log_bin = 0")
        pacs.store_study("1.1")
        pacs.execute("SET SESSION sql_log_bin = 1")
        # It is seen to work: else no more than three rejections would be believed.
        pacs.store_study("1.0")
        receiver.wait_for(1)
        receiver.for_studies([f"1.2.{number}" for number in range(30)], Answer(422))
        for number in range(30):
            pacs.store_study(f"1.2.{number}")
        wait_until(lambda: seen(port).get("parked") == 30, what="parked")
        for row in pacs.execute("SHOW PROCESSLIST"):
            if row[1] == pacs.user and str(row[4]).startswith("Binlog Dump"):
                pacs.execute("KILL %s", (row[0],))
        wait_until(lambda: "1.1" in receiver.study_iuids(), what="the audit")
    lines = [json.loads(line) for line in indexer.log.splitlines()]
    events = [line["event"] for line in lines]
    for event in (
        "status page",
        "connected",
        "caught up",
        "parked",
        "the database is away",
        "audit found rows to send",
        "stopped",
    ):
        assert event in events, event
    assert 10 <= events.count("parked") <= 12, "what repeats is left out"
    assert events.count("caught up") == 1

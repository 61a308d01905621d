"""`check` without a database: files, settings, the state directory, the web service, and how it is shown."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdc_indexer.checks.all import _state_directory, check
from cdc_indexer.delivery.probe import probe
from cdc_indexer.model.changes import Changes
from cdc_indexer.model.finding import Finding, Status, failed, ok, warning, worst_first
from cdc_indexer.model.program import as_called, command
from cdc_indexer.model.settings import Settings, load_settings
from cdc_indexer.monitor.findings import as_json, show
from cdc_indexer.state.store import Store
from tests.central.conftest import READER, WRITER, Index
from tests.certificates import make_certificate
from tests.indexer import KEY, wait_until
from tests.receiver import Answer, Receiver

OK, WARNING, FAILED = Status.OK, Status.WARNING, Status.FAILED

Make = Callable[..., Settings]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Settings in files of their own; nobody listens at their addresses."""

    def settings(center: str = "007", **changes: Any) -> Settings:
        config: dict[str, Any] = {
            "database": {
                "host": "127.0.0.1",
                "port": 1,
                "user": "indexer",
                "password": "secret",
                "name": "pacsdb",
            },
            "key": KEY,
            "webservice_url": "http://127.0.0.1:1/",
            "delivery": {"timeout_seconds": 2},
            **changes,
        }
        config = {name: value for name, value in config.items() if value is not None}
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "config.json").chmod(0o600)
        (tmp_path / "server.json").write_text(json.dumps({"server": center}))
        return load_settings(tmp_path / "config.json", {})

    return settings


def only(settings: Settings, name: str) -> Finding:
    """The one finding of that name that isn't fine; or the one that is."""
    named = [finding for finding in check(settings) if finding.name == name]
    return next((finding for finding in named if finding.status is not OK), named[0])


def names(settings: Settings) -> set[str]:
    return {finding.name for finding in check(settings)}


# --- files -----------------------------------------------------------------------------------------------


def test_files_that_others_can_read_or_change(make: Make, tmp_path: Path) -> None:
    settings, config = make(), tmp_path / "config.json"
    assert only(settings, "files").status is OK
    for mode, said in (
        (0o644, "everybody"),
        (0o604, "everybody"),
        (0o620, "can change"),
        (0o602, "can change"),
    ):
        config.chmod(mode)
        finding = only(settings, "files")
        assert finding.status is WARNING
        assert said in finding.message
        assert finding.remedy.splitlines()[-1].startswith("chmod ")
        assert str(config) in finding.remedy
    config.chmod(0o600)
    (tmp_path / "server.json").chmod(0o666)
    assert "can change" in only(settings, "files").message
    (tmp_path / "server.json").chmod(0o644)
    tmp_path.chmod(0o777)
    assert "can replace" in only(settings, "files").message


def test_a_config_without_secrets_may_be_read(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container: its secrets come from elsewhere."""
    make()
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").chmod(0o644)
    del config["key"], config["database"]["password"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    settings = load_settings(
        tmp_path / "config.json", {"CDC_INDEXER_KEY": KEY, "CDC_INDEXER_DATABASE__PASSWORD": "secret"}
    )
    assert only(settings, "files").status is OK


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_a_group_of_the_services_own_may_read(make: Make, tmp_path: Path) -> None:
    settings, config = make(), tmp_path / "config.json"
    config.chmod(0o640)
    assert "its group" in only(settings, "files").message
    os.chown(config, 0, 12345)
    assert only(settings, "files").status is OK
    os.chown(config, 12345, 12345)
    assert only(settings, "files").status is WARNING


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_what_is_advised_for_another_ones_file_lets_the_service_read_it(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 600 it would be locked out of root's config.json."""
    settings, config = make(), tmp_path / "config.json"
    config.chmod(0o644)
    monkeypatch.setattr("os.geteuid", lambda: 4242)
    monkeypatch.setattr("os.getegid", lambda: 4242)
    remedy = only(settings, "files").remedy
    assert remedy.splitlines()[1:] == [f"chown root:4242 {config}", f"chmod 640 {config}"]
    os.chown(config, 0, 4242)
    config.chmod(0o640)
    assert only(settings, "files").status is OK


def test_files_of_secrets_are_looked_at_too(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = tmp_path / "password"
    password.write_text("secret")
    password.chmod(0o644)
    certificate = make_certificate(tmp_path / "tls")
    certificate.key.chmod(0o600)
    monkeypatch.setenv("CDC_INDEXER_DATABASE__PASSWORD_FILE", "password")
    settings = make()
    assert str(password) in only(settings, "files").message
    password.chmod(0o600)
    both = tmp_path / "both.pem"
    both.write_bytes(certificate.cert.read_bytes() + certificate.key.read_bytes())
    both.chmod(0o644)
    assert str(both) in only(make(delivery={"client_cert": str(both)}), "files").message
    both.chmod(0o600)
    assert only(make(delivery={"client_cert": str(both)}), "files").status is OK


# --- settings --------------------------------------------------------------------------------------------


def test_values_that_are_an_examples(make: Make) -> None:
    assert only(make(), "center").status is OK
    assert only(make(center="000"), "center").status is WARNING
    assert only(make(), "key").status is OK
    demo = (Path(__file__).parent.parent.parent / "extras/compose/indexer_key").read_text().strip()
    for published in (demo, "5954032458" + "e83fc75abf23afd1c01ce1"):
        finding = only(make(key=published), "key")
        assert finding.status is WARNING
        assert published not in finding.message + finding.remedy
    assert only(make(delivery=None), "delivery").message == "Not judged yet: `web service` comes first."
    assert only(make(delivery={}), "delivery").status is OK


def test_a_webhook_that_is_not_signed_or_not_encrypted(make: Make) -> None:
    assert "alerts" not in names(make())
    finding = only(make(alerts={"webhook": "https://127.1/"}), "alerts")
    assert finding.status is WARNING
    made = subprocess.run(
        finding.remedy.splitlines()[-1], shell=True, capture_output=True, text=True, check=True
    )
    secret = made.stdout.strip()
    assert "alerts" not in names(make(alerts={"webhook": "https://127.1/", "webhook_secret": secret}))
    assert (
        only(make(alerts={"webhook": "http://127.1/", "webhook_secret": secret}), "alerts").status is WARNING
    )


def test_addresses_that_others_can_reach_or_read(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert "webservice_url" not in names(make())
    # 127.1 is 127.0.0.1 too, but not to us: as if it were another machine.
    assert only(make(webservice_url="http://127.1:1/"), "webservice_url").status is WARNING
    assert "webservice_url" not in names(make(webservice_url="https://127.1:1/"))
    monkeypatch.setenv("HTTP_PROXY", "http://192.0.2.1:3128")
    assert "NO_PROXY=127.0.0.1" in only(make(), "webservice_url").remedy
    assert "HTTP_PROXY" in only(make(webservice_url="http://127.1:1/"), "webservice_url").message
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert "webservice_url" not in names(make())
    for address in ("127.0.0.1:9108", "[::1]:9108", "localhost:9108"):
        assert "monitor.listen" not in names(make(monitor={"listen": address}))
    for address in ("0.0.0.0:9108", "[::]:9108", "192.0.2.1:9108"):
        assert only(make(monitor={"listen": address}), "monitor.listen").status is WARNING


# --- the state directory ---------------------------------------------------------------------------------


def test_the_state_directory(make: Make, tmp_path: Path) -> None:
    settings = make()
    state = settings.state_dir
    assert only(settings, "state directory").status is OK
    assert not state.exists()
    state.mkdir(mode=0o700)
    assert only(settings, "state directory").status is OK
    assert list(state.iterdir()) == []
    (state / "state.sqlite").touch(0o644)
    assert "state.sqlite" in only(settings, "state directory").message
    (state / "state.sqlite").chmod(0o600)
    state.chmod(0o755)
    finding = only(settings, "state directory")
    assert finding.status is WARNING
    assert finding.remedy.splitlines()[-1] == f"chmod -R go-rwx {state}"
    elsewhere = make(state_dir="/proc/1/nowhere")
    assert only(elsewhere, "state directory").status is FAILED


def test_a_state_directory_that_can_not_be_written(make: Make) -> None:
    settings = make(state_dir="/proc/self/task")
    finding = only(settings, "state directory")
    assert finding.status is FAILED
    assert "chown" in finding.remedy


def test_a_running_service_renames_its_files_meanwhile(make: Make) -> None:
    settings = make()
    settings.state_dir.mkdir(mode=0o700)
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            (settings.state_dir / "checkpoint.new").touch(0o600)
            (settings.state_dir / "checkpoint.new").unlink()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(200):
            assert [finding.status for finding in _state_directory(settings)] == [OK]
    finally:
        ended.set()
        writer.join()


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another account")
def test_an_account_that_may_not_look(make: Make, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    settings = make(state_dir=str(closed / "state"))
    # pytest's own directories are for root only.
    for directory in (tmp_path, *tmp_path.parents):
        if directory.is_relative_to(tempfile.gettempdir()) and directory != Path(tempfile.gettempdir()):
            directory.chmod(0o755)
    os.chown(tmp_path / "config.json", 65534, 65534)
    os.seteuid(65534)
    try:
        findings = {finding.name: finding for finding in check(settings)}
    finally:
        os.seteuid(0)
    assert findings["state directory"].status is FAILED
    assert "can't be looked at" in findings["state directory"].message
    assert "web service" in findings


def test_the_state(make: Make) -> None:
    settings = make()
    settings.state_dir.mkdir(mode=0o700)
    assert "None yet" in only(settings, "state").message

    def write(center: str) -> Path:
        store = Store(settings.state_dir)
        store.apply(Changes(meta={"center": center}))
        store.close()
        return store.path

    write("007")
    assert only(settings, "state").status is OK
    # A copy for people: whatever it is, nothing depends on it.
    (settings.state_dir / "checkpoint.json").write_text("torn")
    assert only(settings, "state").status is OK
    path = write("another")
    finding = only(settings, "state")
    assert finding.status is FAILED
    assert "initial --restart" in finding.remedy
    path.write_bytes(b"torn")
    finding = only(settings, "state")
    assert finding.status is FAILED
    assert str(path) in f"{finding.message}{finding.remedy}"
    path.unlink()
    (settings.state_dir / "parked.sqlite").touch(0o600)
    assert "older version" in only(settings, "state").message


# --- the web service -------------------------------------------------------------------------------------


def delivery(settings: Settings) -> Finding:
    return next(finding for finding in check(settings) if finding.name == "delivery")


def probed(settings: Settings) -> dict[str, Finding]:
    return {finding.name: finding for finding in probe(settings)}


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        (Answer(200, []), OK, "knows the key"),
        (Answer(200, {"status": "Error"}), FAILED, "refuses the key"),
        (Answer(401, {"status": "Error"}), FAILED, "refuses the key"),
        (Answer(403, b""), FAILED, "refuses the key"),
        (Answer(302, b"", {"Location": "https://elsewhere.example/"}), FAILED, "redirects"),
        (Answer(200, b"<html>Welcome</html>"), WARNING, "Not testable"),
        (Answer(200, {"status": "Ok"}), WARNING, "Not testable"),
        (Answer(405, b""), WARNING, "Not testable"),
        (Answer(501, b""), WARNING, "Not testable"),
        (Answer(422, b""), WARNING, "Not testable"),
        (Answer(500, b""), WARNING, "Not testable now"),
        (Answer(503, b"", {"Retry-After": "5"}), WARNING, "Not testable now"),
        (Answer(429, b""), WARNING, "Not testable now"),
    ],
)
def test_what_a_get_says_of_the_key(answer: Answer, status: Status, said: str, make: Make) -> None:
    with Receiver(KEY) as receiver:
        receiver.always(answer, gets=True)
        findings = probed(make(webservice_url=receiver.url))
        assert findings["web service"].status is OK
        assert findings["key accepted"].status is status
        assert said in findings["key accepted"].message
        assert [(entry.method, entry.headers["x-api-key"]) for entry in receiver.entries()] == [("GET", KEY)]


def test_a_proxy_that_wants_a_login_is_no_index(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver(KEY) as proxy:
        proxy.always(Answer(407, b""), gets=True)
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", "")
        findings = probed(make(webservice_url="http://index.invalid/register"))
    assert findings["web service"].status is FAILED
    assert "The proxy wants a login" in findings["web service"].message
    assert "HTTPS_PROXY" in findings["web service"].remedy
    assert "key accepted" not in findings


def test_the_key_of_the_index_in_use_and_a_wrong_one(make: Make) -> None:
    with Receiver(KEY) as receiver:
        assert probed(make(webservice_url=receiver.url))["key accepted"].status is OK
        told = delivery(make(webservice_url=receiver.url, delivery=None))
        assert told.status is WARNING
        assert '"updates": false' in told.remedy
        finding = probed(make(webservice_url=receiver.url, key="wrong"))["key accepted"]
        assert finding.status is FAILED
        assert "config.json" in finding.remedy
        assert {entry.method for entry in receiver.entries()} == {"GET"}


def test_the_key_at_the_reference_index(make: Make, tmp_path: Path) -> None:
    index = Index(tmp_path)
    index.start()
    try:
        url = f"{index.url}/api/v1/register"
        assert probed(make(webservice_url=url, key=WRITER))["key accepted"].status is OK
        for key in ("wrong", READER):
            assert probed(make(webservice_url=url, key=key))["key accepted"].status is FAILED
        assert (
            probed(make(webservice_url=f"{index.url}/api/v2/register", key=WRITER))["web service"].status
            is FAILED
        )
        # Whose key it is, the index says itself (Index-Center); what it refuses, it says in its own words.
        mine = probed(make("000", webservice_url=url, key=WRITER))
        assert "as that of centre 000" in mine["key accepted"].message
        # And that it replaces what it holds of a study, so that there is nothing to choose.
        assert delivery(make("000", webservice_url=url, key=WRITER, delivery=None)).status is OK
        assert "centre" not in mine
        finding = probed(make("104", webservice_url=url, key=WRITER))["centre"]
        assert finding.status is FAILED
        assert "'000'" in finding.message
        assert "'104'" in finding.message
        assert 'It says: "' in probed(make(webservice_url=url, key="wrong"))["key accepted"].message
    finally:
        index.stop()


@pytest.mark.parametrize(("days", "status"), [(30, OK), (5, WARNING)])
def test_the_days_left_of_a_certificate(days: int, status: Status, make: Make, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path / "tls", valid_days=days)
    with Receiver(KEY, tls=certificate.server_context()) as receiver:
        settings = make(webservice_url=receiver.url, delivery={"ca": str(certificate.ca)})
        finding = probed(settings)["certificate"]
        assert finding.status is status
        assert f"{days} days" in finding.message
        # And one that nobody has signed for us.
        finding = probed(make(webservice_url=receiver.url))["web service"]
        assert finding.status is FAILED
        assert "delivery.ca" in finding.remedy


@pytest.mark.parametrize("status", [404, 410])
def test_an_address_with_nothing_there(status: int, make: Make) -> None:
    with Receiver(KEY) as receiver:
        receiver.always(Answer(status, {"message": f"no route for {KEY}"}), gets=True)
        findings = probed(make(webservice_url=receiver.url))
    assert findings["web service"].status is FAILED
    assert "nothing at webservice_url" in findings["web service"].message
    assert 'It says: "no route for ***"' in findings["web service"].message
    assert findings["key accepted"].message == "Not judged yet: `web service` comes first."


def test_a_name_that_does_not_resolve(make: Make) -> None:
    finding = probed(make(webservice_url="http://index.invalid/register"))["web service"]
    assert finding.status is FAILED
    assert "can't be resolved" in finding.message
    assert "webservice_url" in finding.remedy
    database = {"host": "archive.invalid", "user": "indexer", "password": "x", "name": "pacsdb"}
    finding = only(make(database=database), "connection")
    assert finding.status is FAILED
    assert "host name of the database at archive.invalid:3306 can't be resolved" in finding.message
    assert "database.host" in finding.remedy


def test_what_is_left_of_the_example_is_said_and_nothing_is_tried_with_it(make: Make) -> None:
    database = {"host": "127.0.0.1", "user": "indexer", "password": "...", "name": "pacsdb"}
    settings = make(
        "...", database=database, key="...", webservice_url="https://index.example.org/api/v1/register"
    )
    findings = {finding.name: finding for finding in check(settings)}
    for name in ("database.password", "key", "webservice_url", "center"):
        assert findings[name].status is FAILED
        assert "example" in findings[name].message
    assert findings["connection"].message == "Not judged yet: `database.password` comes first."
    assert findings["web service"].message == "Not judged yet: `webservice_url` comes first."
    assert list(check(make(key="...")))[-1].message == "Not judged yet: `key` comes first."


def test_an_index_that_is_not_there_or_hangs(make: Make) -> None:
    finding = probed(make())["web service"]
    assert finding.status is FAILED
    assert "can't be reached" in finding.message
    assert finding.remedy
    with Receiver(KEY) as receiver:
        receiver.always(Answer(fault="hang"), gets=True)
        began = time.monotonic()
        settings = make(webservice_url=receiver.url, delivery={"timeout_seconds": 0.3})
        assert probed(settings)["web service"].status is FAILED
        assert time.monotonic() - began < 5


# --- how it is shown -------------------------------------------------------------------------------------

SHOWN = [
    ok("server", "MariaDB 10.11.19."),
    warning(
        "files",
        "config.json [bold]is[/bold] \x1b[2J readable.",
        "Let nobody else read it:\nchmod 600 config.json",
    ),
    failed("log_bin", "Off.", "In my.cnf:\n[mysqld]\nlog_bin = mysql-bin"),
]


def test_plain_lines() -> None:
    stream = io.StringIO()
    show(SHOWN, stream)
    assert stream.getvalue().splitlines() == [
        "ok       server             MariaDB 10.11.19.",
        "warning  files              config.json [bold]is[/bold]  [2J readable.",
        "         Let nobody else read it:",
        "         chmod 600 config.json",
        "failed   log_bin            Off.",
        "         In my.cnf:",
        "         [mysqld]",
        "         log_bin = mysql-bin",
        "ok: 1, warning: 1, failed: 1",
    ]


def test_a_table_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    statement = f"GRANT SELECT ON `pacsdb`.study_service TO 'indexer'@'{'x' * 200}';"
    show([*SHOWN[1:], failed("grants", "One is missing.", statement), SHOWN[0]], stream)
    assert statement in stream.getvalue().splitlines()
    for text in ("[bold]is[/bold]", "[mysqld]", "log_bin = mysql-bin", "ok: 1, warning: 1, failed: 2"):
        assert text in stream.getvalue()
    assert "\x1b[2J" not in stream.getvalue()


def test_eighty_columns_and_what_is_pasted_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "80")
    statement = f"GRANT SELECT ON `pacsdb`.study_service TO 'indexer'@'{'x' * 100}';"
    long = "It is the case that " + "there is a lot to be said of it, " * 6
    stream = Terminal()
    show([failed("grants", long, f"{long}:\n{statement}"), ok("server", long)], stream)
    lines = re.sub("\x1b\\[[0-9;]*m", "", stream.getvalue()).splitlines()
    assert statement in lines
    assert max(len(line) for line in lines if line != statement) <= 80
    assert [line for line in lines if line[:1] not in (" ", "", "G")] == [lines[0], lines[-5], lines[-1]]


def test_failures_first_and_one_remedy_once() -> None:
    again = "Run it again:\ncdc-indexer sql | mysql pacsdb"
    findings = [
        ok("server", "1."),
        warning("event", "None.", again),
        failed("triggers", "None.", again),
        failed("procedures", "None.", again),
    ]
    stream = io.StringIO()
    show(worst_first(findings), stream)
    assert stream.getvalue().splitlines() == [
        "failed   triggers           None.",
        "         Run it again:",
        "         cdc-indexer sql | mysql pacsdb",
        "failed   procedures         None.",
        "         As for triggers.",
        "warning  event              None.",
        "         As for triggers.",
        "ok       server             1.",
        "ok: 1, warning: 1, failed: 2",
    ]


def test_the_program_is_called_as_it_can_be_from_anywhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/cdc_indexer/__main__.py"])
    assert command("sql") == f"{sys.executable} -m cdc_indexer sql"
    called = tmp_path / "bin" / "cdc-indexer"
    called.parent.mkdir()
    called.write_text("#!/bin/sh\n")
    called.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(called)])
    monkeypatch.setenv("PATH", "/usr/bin")
    assert command("sql") == f"{called} sql"
    monkeypatch.setenv("PATH", str(called.parent))
    assert command("sql") == "cdc-indexer sql"
    # The package's command, and a venv's, start Python with -m; what they are called by is on the PATH all the same.
    monkeypatch.setattr(sys, "argv", ["/somewhere/cdc_indexer/__main__.py"])
    assert as_called("see `cdc-indexer status`") == f"see `{sys.executable} -m cdc_indexer status`"
    called.write_text(f'#!/bin/sh\nexec {Path(sys.executable).parent}/python -I -m cdc_indexer "$@"\n')
    assert command("sql") == "cdc-indexer sql"
    assert as_called("see `cdc-indexer status`") == "see `cdc-indexer status`"
    elsewhere = tmp_path / "a directory" / "config.json"
    assert command("run", config=elsewhere) == f"cdc-indexer --config '{elsewhere}' run"
    monkeypatch.chdir(tmp_path)
    assert command("run", config=tmp_path / "config.json") == "cdc-indexer run"


def test_json() -> None:
    shown = json.loads(as_json(SHOWN))
    assert [list(finding) for finding in shown] == [["name", "status", "message", "remedy"]] * 3
    assert shown[0]["remedy"] is None
    assert [finding["status"] for finding in shown] == ["ok", "warning", "failed"]


# --- the command -----------------------------------------------------------------------------------------


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cdc_indexer", "check", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


def test_everything_else_is_checked_where_the_database_is_away(make: Make, tmp_path: Path) -> None:
    with Receiver(KEY) as receiver:
        make(webservice_url=receiver.url)
        done = run(tmp_path, "--json")
    assert done.returncode == 1
    assert done.stderr == ""
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert findings["connection"]["status"] == "failed"
    assert findings["key accepted"]["status"] == findings["state directory"]["status"] == "ok"
    assert KEY not in done.stdout
    assert "secret" not in done.stdout.replace("secrets", "")


def test_bad_configuration_is_no_failed_check(make: Make, tmp_path: Path) -> None:
    make()
    (tmp_path / "config.json").write_text('{"database": 1}')
    done = run(tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_the_administrators_password_is_asked_for_at_the_terminal(make: Make, tmp_path: Path) -> None:
    make()
    main, terminal = pty.openpty()
    with os.fdopen(main, "rb", buffering=0) as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "cdc_indexer", "check", "--admin", "root"],
            cwd=tmp_path,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            preexec_fn=_controlling_terminal,
        )
        os.close(terminal)
        os.set_blocking(main, False)
        shown = bytearray()

        def read() -> bytearray:
            with contextlib.suppress(OSError):  # EIO: the other end is closed
                shown.extend(stream.read(65536) or b"")
            return shown

        wait_until(lambda: b"Password of root" in read(), what="the question")
        os.write(main, b"an-admins-password\n")
        wait_until(lambda: read() is None or process.poll() is not None, what="the end")
        read()
    assert process.wait(10) == 1
    assert b"an-admins-password" not in shown
    # A terminal: a table in colours.
    assert b"connection" in shown
    assert b"\x1b[" in shown


def _controlling_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)

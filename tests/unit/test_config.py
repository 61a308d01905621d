"""Settings: the old client's files as they are, the environment, and one sentence for every mistake."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cdc_indexer.model.errors import ConfigError
from cdc_indexer.model.settings import Settings, load_settings

PASSWORD = "pa55-Wörd-of-the-database"
KEY = "the-key-0123456789"

OLD_CLIENT: dict[str, Any] = {
    "database": {
        "host": "localhost",
        "port": "3306",
        "user": "indexer",
        "password": PASSWORD,
        "name": "pacsdb",
    },
    "key": KEY,
    "webservice_url": "http://central.example/api/v1/register",
    "server": "anything",
}

Load = Callable[..., Settings]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Writes config.json (the old client's, changed by dotted keys; None removes) and loads it."""

    def write_and_load(
        environ: Mapping[str, str] | None = None, server: object = "000", **changes: Any
    ) -> Settings:
        config = json.loads(json.dumps(OLD_CLIENT))
        for dotted, value in changes.items():
            *sections, name = dotted.split(".")
            inner = config
            for section in sections:
                inner = inner.setdefault(section, {})
            if value is REMOVED:
                del inner[name]
            else:
                inner[name] = value
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "server.json").write_text(json.dumps({"server": server}))
        return load_settings(tmp_path / "config.json", environ or {})

    return write_and_load


REMOVED = object()


def test_the_old_clients_files_work_unchanged(load: Load, tmp_path: Path) -> None:
    settings = load()
    assert settings.database.host == "localhost"
    assert settings.database.port == 3306
    assert settings.database.password.get_secret_value() == PASSWORD
    assert settings.key.get_secret_value() == KEY
    assert settings.center == "000"
    assert settings.webservice_url == "http://central.example/api/v1/register"
    assert settings.state_dir == tmp_path / "state"
    assert settings.config_path == tmp_path / "config.json"


def test_the_defaults_are_those_of_the_contract(load: Load) -> None:
    settings = load()
    assert settings.database.tls is None
    assert settings.stream.model_dump() == {"server_id": None, "heartbeat_seconds": 5, "audit_seconds": 60}
    assert settings.delivery.model_dump() == {
        "concurrency": 8,
        "timeout_seconds": 10,
        "send": "immediate",
        "updates": True,
        "deletes": "ignore",
        "settle_seconds": 5,
        "batch_size": "auto",
        "ca": None,
        "client_cert": None,
        "give_up_seconds": 3600,
    }
    assert settings.fields == {}
    assert settings.monitor.address == ("127.0.0.1", 9108)
    assert settings.log.model_dump() == {"format": "auto", "level": "info"}


def test_every_key_of_the_contract_is_read(load: Load, tmp_path: Path) -> None:
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).touch()
    settings = load(
        database={
            **OLD_CLIENT["database"],
            "unix_socket": "/run/mysqld/mysqld.sock",
            "tls": {"ca": "ca.pem", "cert": "cert.pem", "key": "key.pem", "verify": False},
        },
        state_dir="../elsewhere",
        stream={"server_id": 4294967295, "heartbeat_seconds": 1, "audit_seconds": 1.5},
        delivery={
            "concurrency": 32,
            "timeout_seconds": 2.5,
            "send": "stable",
            "updates": False,
            "deletes": "delete",
            "settle_seconds": 0,
            "batch_size": 500,
            "ca": str(tmp_path / "ca.pem"),
            "client_cert": "cert.pem",
            "give_up_seconds": 60,
        },
        fields={"accession_number": "accession_no"},
        monitor={"listen": "[::1]:0"},
        log={"format": "json", "level": "debug"},
    )
    assert settings.database.unix_socket == "/run/mysqld/mysqld.sock"
    assert settings.database.tls is not None
    assert settings.database.tls.ca == tmp_path / "ca.pem"
    assert settings.database.tls.verify is False
    assert settings.state_dir == tmp_path / "../elsewhere"
    assert settings.delivery.client_cert == tmp_path / "cert.pem"
    assert settings.delivery.send == "stable"
    assert settings.fields == {"accession_number": "accession_no"}
    assert settings.monitor.address == ("::1", 0)


def test_a_socket_needs_no_host_and_no_port(load: Load) -> None:
    settings = load(
        **{"database.host": REMOVED, "database.port": REMOVED, "database.unix_socket": "mysqld.sock"}
    )
    assert settings.database.unix_socket == str(settings.config_path.parent / "mysqld.sock")


def test_null_means_absent_where_absence_means_something(load: Load) -> None:
    settings = load(
        **{"database.tls": None, "stream.server_id": None, "delivery.ca": None, "monitor.listen": None}
    )
    assert settings.database.tls is None
    assert settings.monitor.address is None


def test_empty_tls_means_verified(load: Load) -> None:
    settings = load(**{"database.tls": {}})
    assert settings.database.tls is not None
    assert settings.database.tls.verify is True


def test_verify_may_be_the_ca_alone_from_the_environment_too(load: Load, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    environment = {"CDC_INDEXER_DATABASE__TLS__VERIFY": "ca"}
    for settings in (
        load(**{"database.tls": {"ca": "ca.pem", "verify": "ca"}}),
        load(environment, **{"database.tls": {"ca": "ca.pem"}}),
    ):
        assert settings.database.tls is not None
        assert settings.database.tls.verify == "ca"


@pytest.mark.parametrize(
    ("written", "host"),
    [
        ("[::1]", "::1"),
        ("::1", "::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("10.1.2.3", "10.1.2.3"),
        ("pacs_db.hospital.cl.", "pacs_db.hospital.cl."),
        ("hospital-ñandú.cl", "hospital-ñandú.cl"),
        ("localhost", "localhost"),
    ],
)
def test_hosts(load: Load, written: str, host: str) -> None:
    assert load(**{"database.host": written}).database.host == host


def test_settings_are_frozen_and_hide_secrets(load: Load) -> None:
    settings = load()
    with pytest.raises(ValueError, match="frozen"):
        settings.delivery.concurrency = 1
    assert PASSWORD not in repr(settings)
    assert KEY not in repr(settings)
    assert set(settings.secrets) == {PASSWORD, KEY}


MISTAKES = [
    ({"monitor.quiet_hours": 0}, "monitor.quiet_hours must be more than 0"),
    ({"alerts": {"mail": {}}}, "alerts.mail isn't a known key"),
    ({"alerts": {"email": {"sender": "a@b.cl"}}}, "alerts.email.to is missing"),
    ({"alerts": {"email": {"sender": "a@b.cl", "to": []}}}, "alerts.email.to "),
    (
        {"alerts": {"email": {"sender": "a@b.cl", "to": "nobody"}}},
        "alerts.email.to.0 must be an address such as",
    ),
    (
        {"alerts": {"email": {"sender": "a@b.cl", "to": "a@b.cl", "user": "a"}}},
        "alerts.email has a user without a password",
    ),
    (
        {
            "alerts": {
                "email": {"sender": "a@b.cl", "to": "a@b.cl", "user": "a", "password": "b", "host": "m.cl"}
            }
        },
        "alerts.email would send its password unencrypted",
    ),
    ({"alerts": {"webhook": "ftp://x"}}, "alerts.webhook must begin with http:// or https://"),
    ({"alerts": {"webhook_secret": f"whsec_{'A' * 40}"}}, "alerts has a webhook_secret without a webhook"),
    (
        {"alerts": {"webhook": "https://x.cl", "webhook_secret": "short"}},
        "alerts.webhook_secret must be whsec_ and the Base64 of 24 to 64 bytes",
    ),
    ({"key": REMOVED}, "key is missing"),
    ({"database": REMOVED}, "database is missing"),
    ({"database.name": REMOVED}, "database.name is missing"),
    ({"database.password": REMOVED}, "database.password is missing"),
    ({"database.host": REMOVED}, "database.host is missing"),
    ({"database.password": None}, "database.password must be a text"),
    ({"database.password": 12345}, "database.password must be a text"),
    ({"database.port": "many"}, "database.port must be a whole number"),
    ({"database.port": True}, "database.port must be a whole number"),
    ({"database.port": "70000"}, "database.port must be at most 65535"),
    ({"database.port": 0}, "database.port must be at least 1"),
    ({"database.user": ""}, "database.user must not be empty"),
    ({"database": []}, "database must be an object"),
    ({"database.host": "a..b"}, "database.host holds a host name that can't exist"),
    ({"database.host": "a b"}, "database.host holds a host name that can't exist"),
    ({"database.host": " "}, "database.host holds a host name that can't exist"),
    ({"database.host": "[::x]"}, "database.host holds a host name that can't exist"),
    ({"database.tls": {"verify": "no"}}, 'database.tls.verify must be true, false or "ca"'),
    ({"database.tls": {"verify": 1}}, 'database.tls.verify must be true, false or "ca"'),
    ({"database.tls": {"verify": "ca"}}, 'database.tls has verify "ca" without a ca'),
    ({"database.tls": {"verfy": False}}, "database.tls.verfy isn't a known key: did you mean verify?"),
    ({"database.tls": {"ca": "absent.pem"}}, "database.tls.ca names a file that isn't there"),
    ({"database.tls": {"key": "config.json"}}, "database.tls has a key without its cert"),
    ({"key": ""}, "key must not be empty"),
    ({"key": "line\nend"}, "key holds characters"),
    ({"key": " padded "}, "key holds characters"),
    ({"key": "clé"}, "key holds characters"),
    ({"webservice_url": "central.example/api"}, "webservice_url must begin with http"),
    ({"webservice_url": "ftp://central.example"}, "webservice_url must begin with http"),
    ({"webservice_url": "https://"}, "webservice_url must begin with http"),
    (
        {"webservice_url": "https://user:pw@central.example"},
        "webservice_url must not hold a user or password",
    ),
    ({"webservice_url": "https://central.example:port/"}, "webservice_url is not an address"),
    ({"webservice_url": "https://central.example/#a"}, "webservice_url must not hold a '#'"),
    ({"webservice_url": "https://central.example/a b"}, "webservice_url must not hold spaces"),
    ({"webservice_url": "https://cen$tral/"}, "webservice_url holds a host name that can't exist"),
    (
        {"webservice_ulr": "https://central.example"},
        "webservice_ulr isn't a known key: did you mean webservice_url?",
    ),
    ({"center": "000"}, "center isn't a key of this file: the centre is read from server.json"),
    ({"config_path": "x"}, "config_path isn't a key of this file"),
    ({"state_dir": 5}, "state_dir must be a text"),
    ({"state_dir": ""}, "state_dir must be the name of a file or directory"),
    ({"stream": {"server_id": 0}}, "stream.server_id must be at least 1"),
    ({"stream": {"server_id": 4294967296}}, "stream.server_id must be at most 4294967295"),
    ({"stream": {"heartbeat_seconds": 0}}, "stream.heartbeat_seconds must be at least 0.1"),
    ({"stream": {"audit_seconds": "60"}}, "stream.audit_seconds must be a number"),
    ({"delivery": {"concurrency": 0}}, "delivery.concurrency must be at least 1"),
    ({"delivery": {"concurrency": 8.5}}, "delivery.concurrency must be a whole number"),
    ({"delivery": {"concurrency": None}}, "delivery.concurrency must be a whole number"),
    ({"delivery": {"timeout_seconds": -1}}, "delivery.timeout_seconds must be at least"),
    ({"delivery": {"give_up_seconds": 0}}, "delivery.give_up_seconds must be more than 0"),
    ({"delivery": {"send": "later"}}, "delivery.send must be 'immediate' or 'stable'"),
    ({"delivery": {"updates": "no"}}, "delivery.updates must be true or false"),
    ({"delivery": {"ca": "absent.pem"}}, "delivery.ca names a file that isn't there"),
    ({"delivery": {"conncurrency": 1}}, "delivery.conncurrency isn't a known key: did you mean concurrency?"),
    ({"delivery": None}, "delivery must be an object"),
    ({"fields": {"patient_id": "accession_no"}}, "fields can't use the name patient_id"),
    ({"fields": {"center": "accession_no"}}, "fields can't use the name center"),
    ({"fields": {"": "accession_no"}}, "fields holds an empty"),
    ({"fields": {"accession": "a`b"}}, "fields.accession must be the name of a column"),
    ({"fields": {"accession": 1}}, "fields.accession must be a text"),
    ({"monitor": {"listen": "9108"}}, "monitor.listen must be ADDRESS:PORT"),
    ({"monitor": {"listen": "127.0.0.1:99999"}}, "monitor.listen must be ADDRESS:PORT"),
    ({"log": {"level": "loud"}}, "log.level must be 'debug', 'info', 'warning' or 'error'"),
]


@pytest.mark.parametrize(("changes", "sentence"), MISTAKES, ids=[sentence for _, sentence in MISTAKES])
def test_a_mistake_is_one_sentence_that_names_the_key(
    load: Load, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(**changes)
    said = str(caught.value)
    assert f"{tmp_path / 'config.json'}: {sentence}" in said
    assert "\n" not in said
    assert PASSWORD not in said
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__, "pydantic's text would show"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "isn't valid JSON"),
        ("[]", "must hold a JSON object"),
        ('{"key": 1, "key": 2}', "key is there twice"),
        ('{"delivery": {"timeout_seconds": NaN}}', "NaN isn't a number"),
        ('{"a": ' + "9" * 5000 + "}", "too long"),
        ("[" * 100_000, "nests too deeply"),
        ("", "is empty: put into it"),
        (" \n", "is empty: put into it"),
        ("x" * (1024 * 1024 + 1), "larger than 1 MiB"),
    ],
)
def test_a_file_that_is_no_json_object(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_settings(tmp_path / "config.json", {})
    assert str(tmp_path / "config.json") in str(caught.value)


def test_a_file_written_by_windows_is_read(load: Load, tmp_path: Path) -> None:
    load()
    text = (tmp_path / "config.json").read_text().replace(",", ",\r\n")
    (tmp_path / "config.json").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_settings(tmp_path / "config.json", {}).database.name == "pacsdb"


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes('{"key": "ñ"}'.encode("latin1"))
    with pytest.raises(ConfigError, match="isn't UTF-8"):
        load_settings(tmp_path / "config.json", {})


def test_missing_files_are_named(load: Load, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"config\.json isn't there: .* /etc/cdc-indexer, or name it with `--config"
    ):
        load_settings(tmp_path / "config.json", {})
    load()
    (tmp_path / "server.json").unlink()
    with pytest.raises(ConfigError, match=r"server\.json isn't there: put it beside config\.json"):
        load_settings(tmp_path / "config.json", {})


@pytest.mark.parametrize(
    ("server", "sentence"),
    [
        (None, "server is missing"),
        (0, "server must be a text"),
        ("", "server must not be empty"),
        ("a\nb", "printed"),
        (" ", "server must not be blank"),
        ("\u00a0", "printed"),
    ],
)
def test_a_centre_that_can_not_be_one(load: Load, server: object, sentence: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"server\.json: {sentence}|server\.json: server holds .*{sentence}"
    ):
        load(server=server)


# --- environment -----------------------------------------------------------------------------------------


def test_null_in_the_environment_is_none_where_that_may_be(load: Load) -> None:
    found = load({"CDC_INDEXER_MONITOR__LISTEN": "null", "CDC_INDEXER_DATABASE__TLS": "null"})
    assert (found.monitor.listen, found.database.tls) == (None, None)
    assert load({"CDC_INDEXER_KEY": "null"}).key.get_secret_value() == "null"


def test_the_environment_wins(load: Load, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    settings = load(
        {
            "CDC_INDEXER_DATABASE__PASSWORD": "from the environment",
            "CDC_INDEXER_DATABASE__PORT": "3307",
            "CDC_INDEXER_DATABASE__TLS__CA": "ca.pem",
            "CDC_INDEXER_KEY": "12345",
            "CDC_INDEXER_CENTER": "042",
            "CDC_INDEXER_STATE_DIR": "elsewhere",
            "CDC_INDEXER_STREAM__SERVER_ID": "77",
            "CDC_INDEXER_DELIVERY__CONCURRENCY": "3",
            "CDC_INDEXER_DELIVERY__SETTLE_SECONDS": "0.5",
            "CDC_INDEXER_DELIVERY__UPDATES": "false",
            "CDC_INDEXER_DELIVERY__SEND": "stable",
            "CDC_INDEXER_FIELDS": '{"accession_number": "accession_no"}',
            "CDC_INDEXER_LOG__LEVEL": "debug",
            "UNRELATED": "1",
        },
        **{"delivery.concurrency": 5, "delivery.batch_size": 7},
    )
    assert settings.database.password.get_secret_value() == "from the environment"
    assert settings.database.port == 3307
    assert settings.database.tls is not None
    assert settings.database.tls.ca == tmp_path / "ca.pem"
    assert settings.key.get_secret_value() == "12345"
    assert settings.center == "042"
    assert settings.state_dir == tmp_path / "elsewhere"
    assert settings.stream.server_id == 77
    assert settings.delivery.concurrency == 3
    assert settings.delivery.settle_seconds == 0.5
    assert settings.delivery.updates is False
    assert settings.delivery.send == "stable"
    assert settings.delivery.batch_size == 7, "what the environment doesn't name stays as the file says"
    assert settings.fields == {"accession_number": "accession_no"}


def test_a_secret_can_come_from_a_file(load: Load, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("p \n")
    (tmp_path / "key").write_text("k\r\n")
    settings = load(
        {"CDC_INDEXER_DATABASE__PASSWORD_FILE": str(tmp_path / "password"), "CDC_INDEXER_KEY_FILE": "key"},
        **{"database.password": REMOVED, "key": REMOVED},
    )
    assert settings.database.password.get_secret_value() == "p "
    assert settings.key.get_secret_value() == "k"


def test_the_centre_from_the_environment_needs_no_server_json(load: Load, tmp_path: Path) -> None:
    load()
    (tmp_path / "server.json").unlink()
    assert load_settings(tmp_path / "config.json", {"CDC_INDEXER_CENTER": "042"}).center == "042"


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"CDC_INDEXER_KYE": "x"}, "CDC_INDEXER_KYE isn't a setting"),
        ({"CDC_INDEXER_CONFIG_PATH": "x"}, "CDC_INDEXER_CONFIG_PATH isn't a setting"),
        ({"CDC_INDEXER_KEY__X": "x"}, "CDC_INDEXER_KEY__X isn't a setting"),
        ({"CDC_INDEXER_": "x"}, "CDC_INDEXER_ isn't a setting"),
        ({"CDC_INDEXER_KEY": ""}, "key (environment variable CDC_INDEXER_KEY) must not be empty"),
        ({"CDC_INDEXER_KEY_FILE": "absent"}, "that CDC_INDEXER_KEY_FILE names"),
        (
            {"CDC_INDEXER_KEY": "a", "CDC_INDEXER_KEY_FILE": "b"},
            "both CDC_INDEXER_KEY and CDC_INDEXER_KEY_FILE",
        ),
        (
            {"CDC_INDEXER_DATABASE__PORT": "x"},
            "database.port (environment variable CDC_INDEXER_DATABASE__PORT)",
        ),
        ({"CDC_INDEXER_DELIVERY__UPDATES": "x"}, "must be true or false"),
        ({"CDC_INDEXER_DELIVERY": "8"}, "CDC_INDEXER_DELIVERY must be a JSON object"),
        (
            {"CDC_INDEXER_DELIVERY": '{"send": "x"}'},
            "delivery.send (environment variable CDC_INDEXER_DELIVERY)",
        ),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(
    load: Load, environ: dict[str, str], sentence: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ)
    assert sentence in str(caught.value)


def test_a_section_that_is_wrong_in_the_file_is_said_whatever_the_environment_holds(load: Load) -> None:
    with pytest.raises(ConfigError, match="delivery must be an object"):
        load({"CDC_INDEXER_DELIVERY__CONCURRENCY": "3"}, delivery=3)


def test_variables_that_are_no_settings_are_left_alone(load: Load) -> None:
    """The tests' own, and what Kubernetes gives every container beside a service of our name."""
    load(
        {
            "CDC_INDEXER_TEST_ANYTHING": "1",
            "CDC_INDEXER_FAILPOINT": "after_post:3",
            "CDC_INDEXER_SERVICE_HOST": "10.0.0.1",
            "CDC_INDEXER_SERVICE_PORT_METRICS": "9108",
            "CDC_INDEXER_PORT": "tcp://10.0.0.1:9108",
            "CDC_INDEXER_PORT_9108_TCP_ADDR": "10.0.0.1",
        }
    )


def test_pydantic_is_imported_by_the_settings_alone() -> None:
    """Every module that imports it late keeps the other commands quick."""
    modules = "cdc_indexer.cli, cdc_indexer.model.errors, cdc_indexer.state.lock"
    program = f"import sys, {modules}; sys.exit('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=False, env={**os.environ}, timeout=60)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("delivery", "quiet", "longest"),
    [
        ({}, 5, 60),
        ({"settle_seconds": 3600}, 3600, 3600),
        ({"send": "stable"}, 5, 60),
        ({"send": "stable", "updates": False}, 150, math.inf),
        ({"send": "stable", "updates": False, "settle_seconds": 5}, 5, math.inf),
        ({"updates": False}, 5, 60),
    ],
)
def test_how_long_a_study_must_be_quiet(
    load: Load, delivery: dict[str, Any], quiet: float, longest: float
) -> None:
    """What is sent once waits for as long as the archive needs; what may be corrected is never held back for long."""
    settings = load(delivery=delivery).delivery
    assert (settings.quiet_seconds, settings.max_wait_seconds) == (quiet, longest)

"""Sessions with the PACS's database: they can't write, don't wait, and say in one sentence what is wrong."""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pymysql
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cdc_indexer.model.errors import IndexerError, NoBinlog, SchemaError, SourceError, SourceRefused
from cdc_indexer.source import _driver, catalogue, connection
from cdc_indexer.source.connection import connect
from cdc_indexer.source.errors import STATEMENT_SECONDS, translate
from tests.following import Outbox, reading, settings


def one(opened: Any, sql: str) -> Any:
    row = next(iter(opened.rows(sql)), None)
    return row[0] if row and len(row) == 1 else row


@pytest.fixture
def outbox(server: Any, database: str) -> Iterator[Outbox]:
    with closing(Outbox(server, database)) as outbox:
        yield outbox


@pytest.fixture
def account(outbox: Outbox) -> Iterator[dict[str, str]]:
    """An account without any right."""
    outbox("CREATE USER nobody@'127.0.0.1' IDENTIFIED BY 'Geheim-ñandú€'")
    yield {"user": "nobody", "password": "Geheim-ñandú€"}
    outbox("DROP USER nobody@'127.0.0.1'")


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO study_service (id, operation, recorded_at) VALUES (1, 'x', NOW())",
        "DELETE FROM study_service",
        "UPDATE study_service SET study_pk = 1",
        "TRUNCATE study_service",
        "DROP TABLE study_service",
        "CREATE TABLE another (a INT)",
        "ALTER TABLE study_service ADD COLUMN a INT",
    ],
)
@pytest.mark.parametrize("snapshot", [True, False])
def test_a_session_can_not_write(outbox: Outbox, sql: str, snapshot: bool) -> None:
    with (
        reading(outbox.settings) as opened,
        pytest.raises(SourceError, match="1792"),
        opened.snapshot() if snapshot else nullcontext(),
    ):
        opened.rows(sql)


def test_what_a_session_is_set_to(outbox: Outbox) -> None:
    outbox("SET GLOBAL sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'")
    try:
        with reading(outbox.settings) as opened:
            assert one(opened, "SELECT @@time_zone, @@character_set_client, @@sql_mode, @@autocommit") == (
                "+00:00",
                "utf8mb4",
                "",
                1,
            )
            assert one(opened, "SELECT @@lock_wait_timeout") == connection.LOCK_WAIT_TIMEOUT_SECONDS
            if opened.is_mariadb:
                assert float(one(opened, "SELECT @@max_statement_time")) == STATEMENT_SECONDS
                assert one(opened, "SELECT @@tx_isolation") == "READ-COMMITTED"
            else:
                assert one(opened, "SELECT @@max_execution_time") == STATEMENT_SECONDS * 1000
                assert one(opened, "SELECT @@transaction_isolation") == "READ-COMMITTED"
            sock = _driver.socket_of(opened.connection)
            assert sock is not None
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert (
                sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == connection.KEEPALIVE_IDLE_SECONDS
            )
            assert not one(opened, "SHOW STATUS LIKE 'Ssl_cipher'")[1]
    finally:
        outbox("SET GLOBAL sql_mode = DEFAULT")


def test_a_snapshot_of_several_queries(outbox: Outbox) -> None:
    outbox.insert(1)
    with reading(outbox.settings) as opened:
        with opened.snapshot():
            assert one(opened, "SELECT COUNT(*) FROM study_service") == 1
            outbox.insert(2)
            assert one(opened, "SELECT COUNT(*) FROM study_service") == 1
        assert one(opened, "SELECT COUNT(*) FROM study_service") == 2


def test_over_the_unix_socket(outbox: Outbox) -> None:
    with reading(
        settings(outbox.server, outbox.database, unix_socket=outbox.server.unix_socket, port=1)
    ) as opened:
        assert one(opened, "SELECT DATABASE()") == outbox.database


def test_versions(outbox: Outbox) -> None:
    with reading(outbox.settings) as opened:
        assert opened.is_mariadb == outbox.is_mariadb
        assert ".".join(map(str, opened.version)) == outbox.server.version.split("-")[0]


def test_a_lock_on_the_outbox_is_not_waited_for(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LOCK_WAIT_TIMEOUT_SECONDS", 1)
    outbox("LOCK TABLES study_service WRITE")
    began = time.monotonic()
    with pytest.raises(SourceError, match="lock"), reading(outbox.settings) as opened:
        one(opened, "SELECT COUNT(*) FROM study_service")
    assert time.monotonic() - began < 5
    outbox("UNLOCK TABLES")


def test_a_query_has_an_end(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "STATEMENT_SECONDS", 1)
    outbox.insert(*range(1, 200))
    began = time.monotonic()
    with pytest.raises(SourceError, match="given up"), reading(outbox.settings) as opened:
        one(
            opened,
            "SELECT MAX(a.id ^ b.id ^ c.id ^ d.id) FROM study_service a, study_service b, study_service c, study_service d",
        )
    assert time.monotonic() - began < 10


# What goes wrong, in one sentence


def test_wrong_password_host_and_database(outbox: Outbox, account: dict[str, str]) -> None:
    told = [
        refused(outbox, **{**account, "password": "Falsch-ñandú"}),
        refused(outbox, user="ghost"),
        refused(outbox, port=_unused_port()),
        refused(outbox, host="host.invalid"),
        refused(outbox, unix_socket="/nonexistent/mysqld.sock"),
        refused(outbox, name="nowhere"),
        refused(outbox, **account),
    ]
    assert "refuses user 'nobody'" in told[0]
    assert "refuses user 'ghost'" in told[1]
    assert "is it running?" in told[2]
    assert "host.invalid" in told[3]
    assert "/nonexistent/mysqld.sock" in told[4]
    assert "no database 'nowhere'" in told[5]
    assert f"GRANT SELECT ON `{outbox.database}`.study_service" in told[6]
    for message in told:
        assert "\n" not in message
        assert "Geheim" not in message
        assert "Falsch" not in message


def test_missing_rights_tables_and_columns(outbox: Outbox, account: dict[str, str]) -> None:
    outbox(f"GRANT SELECT ON {outbox.database}.other TO nobody@'127.0.0.1'")
    named = settings(outbox.server, outbox.database, **account)
    with pytest.raises(SourceError, match="GRANT SELECT"), reading(named) as opened:
        one(opened, "SELECT id FROM study_service")
    with (
        pytest.raises(NoBinlog, match="GRANT REPLICATION SLAVE, REPLICATION CLIENT"),
        reading(named) as opened,
    ):
        catalogue.binlog_end(opened)
    with pytest.raises(SchemaError, match="cdc-indexer sql"), reading(named) as opened:
        catalogue.columns(opened, outbox.database, "study_service")
    with pytest.raises(SchemaError, match="cdc-indexer sql"), reading(outbox.settings) as opened:
        one(opened, "SELECT id FROM indexer_study")
    with pytest.raises(SchemaError, match="cdc-indexer sql"), reading(outbox.settings) as opened:
        one(opened, "SELECT nothing FROM study_service")
    outbox("CREATE VIEW indexer_study AS SELECT a FROM other")
    outbox("ALTER TABLE other CHANGE a z INT")
    with pytest.raises(SchemaError, match="indexer_study"), reading(outbox.settings) as opened:
        one(opened, "SELECT a FROM indexer_study")


def test_a_server_without_a_binary_log(new_server: Any) -> None:
    server = new_server("--skip-log-bin")
    server.create_database("pacs")
    with pytest.raises(NoBinlog, match="log_bin"), reading(settings(server, "pacs")) as opened:
        catalogue.binlog_end(opened)


def test_a_connection_that_was_killed(outbox: Outbox) -> None:
    with pytest.raises(SourceError, match="tried again"), reading(outbox.settings) as opened:
        outbox(f"KILL {one(opened, 'SELECT CONNECTION_ID()')}")
        one(opened, "SELECT 1")
    with pytest.raises(SourceError, match="closed"), reading(outbox.settings) as opened:
        opened.connection.close()
        one(opened, "SELECT 1")


def test_the_servers_text_is_not_repeated() -> None:
    """It may quote the value that it stumbled over."""
    for code in (1292, 1366, 1062, 3819, 9999):
        told = translate(pymysql.OperationalError(code, "Incorrect value: 'PEÑA^JOSÉ' for column"))
        assert "PEÑA" not in str(told)
        assert str(code) in str(told)


def test_what_is_ours_already_stays_as_it_is() -> None:
    error = SchemaError("as it was")
    assert translate(error) is error


# TLS


class Authority:
    """A CA of the test's own and what it signs, as PEM files that a server of another user can read."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.ca = self._write(f"{name}.pem", self._sign(self._name, self._key, ca=True))

    def certificate(self, name: str, address: str | None = None) -> tuple[str, str]:
        """(certificate, key)."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return (
            self._write(f"{name}-cert.pem", self._sign(subject, key, address=address)),
            self._write(f"{name}-key.pem", pem),
        )

    def _sign(self, subject: x509.Name, key: Any, *, ca: bool = False, address: str | None = None) -> bytes:
        now = datetime.now(timezone.utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if address is not None:
            names = x509.SubjectAlternativeName([x509.DNSName(address)])
            if address[0].isdigit():
                import ipaddress

                names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _write(self, name: str, content: bytes) -> str:
        path = self._directory / name
        path.write_bytes(content)
        path.chmod(0o644)
        return str(path)


@pytest.fixture
def readable_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_tls_is_verified(new_server: Any, readable_directory: Path) -> None:
    authority = Authority(readable_directory, "hospital")
    stranger = Authority(readable_directory, "stranger")
    certificate, key = authority.certificate("server", "127.0.0.1")
    cert, cert_key = authority.certificate("client")
    server = new_server()
    if server.flavour != "mariadb-10.11":
        pytest.skip("its files are in a folder of another system")
    server.stop()
    server.extra_arguments += [f"--ssl-ca={authority.ca}", f"--ssl-cert={certificate}", f"--ssl-key={key}"]
    server.start()
    server.create_database("pacs")
    server.execute("CREATE USER sealed@'127.0.0.1' IDENTIFIED BY 'secret' REQUIRE X509")

    def cipher(**changes: Any) -> Any:
        with reading(settings(server, "pacs", **changes)) as opened:
            return one(opened, "SHOW STATUS LIKE 'Ssl_cipher'")[1]

    assert cipher(tls={"ca": authority.ca})
    assert cipher(tls={"verify": False})
    assert not cipher()
    sealed = {"user": "sealed", "password": "secret", "name": "information_schema"}
    assert cipher(tls={"ca": authority.ca, "cert": cert, "key": cert_key}, **sealed)
    with pytest.raises(SourceError, match="refuses user 'sealed'"):
        cipher(tls={"ca": authority.ca}, **sealed)
    with pytest.raises(SourceError, match=r"certificate .* can't be verified .*tls.ca"):
        cipher(tls={"ca": stranger.ca})
    with pytest.raises(SourceError, match="can't be verified"):
        cipher(tls={})
    with pytest.raises(SourceError, match=r"can't be verified .*localhost"):
        cipher(tls={"ca": authority.ca}, host="localhost")
    with pytest.raises(SourceRefused, match=r"database\.tls\.ca"):
        cipher(tls={"ca": key})
    with pytest.raises(SourceRefused, match=r"database\.tls\.cert"):
        cipher(tls={"ca": authority.ca, "cert": cert, "key": key})


def test_without_tls_nothing_is_encrypted_and_with_it_nothing_is_not(outbox: Outbox) -> None:
    """Each server: some bring a certificate of their own, which nobody has signed; 10.11 has none."""
    with closing(connect(outbox.settings)) as opened:
        assert _driver.encryption(opened) is None
    told = refused(outbox, tls={})
    if outbox.server.flavour == "mariadb-10.11":
        assert "offers no TLS" in told
    else:
        assert "can't be verified" in told


def refused(outbox: Outbox, **changes: Any) -> str:
    with pytest.raises(IndexerError) as told, reading(settings(outbox.server, outbox.database, **changes)):
        pass
    assert isinstance(told.value, SourceError)
    return str(told.value)


def _unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])

"""What `run` imports before its first study arrives: each of these would cost every start time, and the process memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.indexer import Indexer, wait_until
from tests.pacs import Pacs
from tests.receiver import Receiver

#: What a service as most have it doesn't need, and who would bring it. (Of what is refused Python names the package, too.)
NOT_NEEDED = {
    "asyncio": "structlog",
    "rich.console": "structlog",
    "charset_normalizer.api": "requests",
    "chardet.universaldetector": "requests",
    "cryptography": "PyMySQL",
    "smtplib": "alerts, which most have none of",
    "prometheus_client": "metrics, when somebody asks for them",
    "cdc_indexer.monitor.page": "the status page, which is off here",
    "cdc_indexer.checks": "check",
    "cdc_indexer.jobs.initial": "initial",
    "cdc_indexer.jobs.reconcile": "reconcile",
}


@pytest.fixture
def indexer(
    pacs: Pacs, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Indexer]:
    """It writes into its log what it imports."""
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    one = Indexer(tmp_path / "indexer", pacs, receiver.url)
    yield one
    one.close()


def imported(indexer: Indexer, pacs: Pacs, receiver: Receiver) -> set[str]:
    """By a start until a study that waited has arrived."""
    pacs.store_study()
    before, written = len(receiver.accepted()), len(indexer.log)
    with indexer.running():
        wait_until(lambda: len(receiver.accepted()) > before, what="the study")
        found = set(re.findall(r"^import time:.*\| +(\S+)$", indexer.log[written:], re.MULTILINE))
    assert "cdc_indexer.jobs.run" in found
    return found


def test_a_start_imports_only_what_it_needs(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    with indexer.running():  # from now on MySQL knows the account
        wait_until(lambda: indexer.caught_up, what="caught up")
    found = imported(indexer, pacs, receiver)
    assert {name: NOT_NEEDED[name] for name in NOT_NEEDED.keys() & found} == {}


def test_cryptography_is_imported_when_the_server_asks_for_it(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    """MySQL does at the first login after its start (caching_sha2_password), and after FLUSH PRIVILEGES, without TLS."""
    asks = not pacs.server.is_mariadb
    assert ("cryptography" in imported(indexer, pacs, receiver)) is asks
    assert "cryptography" not in imported(indexer, pacs, receiver)
    pacs.server.execute("FLUSH PRIVILEGES")
    assert ("cryptography" in imported(indexer, pacs, receiver)) is asks


def test_over_tls_cryptography_is_not_needed(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    """The password goes as it is then."""
    if pacs.server.flavour == "mariadb-10.11":
        pytest.skip("it brings no certificate of its own")
    indexer.settings["database"]["tls"] = {"verify": False}
    indexer.write_files()
    pacs.server.execute("FLUSH PRIVILEGES")
    assert "cryptography" not in imported(indexer, pacs, receiver)

"""Servers and archives for tests. What each fixture gives is in tests/servers.py, tests/pacs.py and tests/receiver.py.

The tests run in two processes side by side (pytest-xdist), each with servers of its own: most of them wait for something.

CDC_INDEXER_TEST_SERVERS=mariadb-10.11,mysql picks the servers. One that this machine doesn't have is skipped, and named
at the end; with CI=true it is a failure.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.case import figures
from tests.indexer import KEY
from tests.pacs import Pacs
from tests.privacy import privacy
from tests.receiver import Receiver
from tests.servers import FLAVOURS, Server, ServerFailed, ServerUnavailable

# What the program says is compared in English, whatever language the developer's machine speaks.
os.environ["LC_ALL"] = "C.UTF-8"

# How it says that it is called depends on the PATH, which has the venv's commands where somebody activated that.
_VENV = str(Path(sys.executable).parent)
os.environ["PATH"] = os.pathsep.join(
    part for part in os.environ.get("PATH", os.defpath).split(os.pathsep) if part != _VENV
)

#: The shared server of each flavour, started when a test first asks for it, and what was found out about each.
_shared: dict[str, Server] = {}
_covered: dict[str, str] = {}
_not_covered: dict[str, str] = {}


def _picked() -> tuple[str, ...]:
    named = os.environ.get("CDC_INDEXER_TEST_SERVERS", "")
    picked = tuple(name.strip() for name in named.split(",") if name.strip()) or FLAVOURS
    if unknown := set(picked) - set(FLAVOURS):
        raise pytest.UsageError(
            f"CDC_INDEXER_TEST_SERVERS names {', '.join(sorted(unknown))}: choose from {', '.join(FLAVOURS)}"
        )
    return picked


def _start(flavour: str, *extra_arguments: str) -> Server:
    try:
        server = Server.start_new(flavour, *extra_arguments)
    except (ServerUnavailable, ServerFailed) as error:
        # Options of a test's own may be what the server refuses: that is never a reason to skip.
        if extra_arguments and flavour in _covered:
            raise
        _not_covered[flavour] = str(error).splitlines()[0]
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(f"{flavour}: {error}")
    _covered[flavour] = server.version
    return server


@pytest.fixture(scope="session", params=_picked())
def flavour(request: pytest.FixtureRequest) -> str:
    """Each server that the tests run on, by name, for tests that start their own."""
    return str(request.param)


@pytest.fixture(scope="session")
def server(flavour: str) -> Server:
    """A running server with default settings, shared by all tests: don't stop it, don't change its settings for good."""
    if flavour in _not_covered:
        pytest.skip(f"{flavour}: {_not_covered[flavour]}")
    if flavour not in _shared:
        _shared[flavour] = _start(flavour)
    return _shared[flavour]


@pytest.fixture
def new_server(flavour: str) -> Iterator[Callable[..., Server]]:
    """Starts servers of the test's own: new_server("--binlog-row-metadata=FULL"). They are gone after the test."""
    started: list[Server] = []

    def start_one(*extra_arguments: str) -> Server:
        started.append(_start(flavour, *extra_arguments))
        return started[-1]

    yield start_one
    for one in started:
        one.destroy()


@pytest.fixture
def database(server: Server) -> Iterator[str]:
    """The name of a new, empty database (latin1) on `server`; dropped afterwards."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    server.create_database(name)
    yield name
    server.drop_database(name)


@pytest.fixture
def pacs(server: Server) -> Iterator[Pacs]:
    """An archive with the indexer's tables and triggers on `server`; dropped afterwards."""
    archive = Pacs.create(server)
    yield archive
    archive.destroy()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A central index that accepts everything sent with indexer.KEY, until it is told otherwise."""
    with Receiver(KEY) as running:
        yield running


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of a test marked `one_server`, keeps one server of those there would be, in turn."""
    flavours_of: dict[str, list[str]] = {}
    found: dict[pytest.Item, tuple[str, str]] = {}
    for item in items:
        if item.get_closest_marker("one_server") and isinstance(item, pytest.Function):
            flavour = str(item.callspec.params["flavour"]) if hasattr(item, "callspec") else ""
            # By its name, so that a test is on the same server whichever others run.
            name = f"{item.path.name}:{item.name.replace(flavour, '')}"
            found[item] = flavour, name
            flavours_of.setdefault(name, []).append(flavour)
    left_out = []
    for item, (flavour, name) in found.items():
        flavours = flavours_of[name]
        if flavour != flavours[zlib.crc32(name.encode()) % len(flavours)]:
            left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


@pytest.fixture(autouse=True)
def nothing_private() -> Iterator[None]:
    """After each test: no secret and no patient stands in what the program wrote meanwhile (tests/privacy.py)."""
    yield
    if found := privacy.found():
        pytest.fail("private values were written:\n" + "\n".join(found), pytrace=False)


def pytest_configure() -> None:
    # By default SIGTERM ends Python without its clean-up, and the servers would go on.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def pytest_sessionfinish(session: pytest.Session) -> None:
    for one in _shared.values():
        one.destroy()
    # What a process of pytest-xdist has to tell the one that reports.
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["servers"] = [_covered, _not_covered]
        output["figures"] = dataclasses.asdict(figures)
        output["searched"] = [privacy.searched_texts, privacy.searched_bytes]
    if _not_covered and not _covered:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    output = getattr(node, "workeroutput", {})  # absent when the process died
    covered, not_covered = output.get("servers", ({}, {}))
    _covered.update(covered)
    _not_covered.update(not_covered)
    for name, value in output.get("figures", {}).items():
        setattr(figures, name, getattr(figures, name) + value)
    texts, size = output.get("searched", (0, 0))
    privacy.searched_texts += texts
    privacy.searched_bytes += size


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if figures.cases:
        terminalreporter.section("faults")
        for name, text in (
            ("cases", f"{figures.cases:,}"),
            ("faults injected", f"{figures.faults:,}"),
            ("studies committed", f"{figures.committed:,}"),
            ("lost", f"{figures.lost:,}"),
            ("parked", f"{figures.parked:,}"),
            ("sent twice", f"{figures.repeated:,} (at most {figures.bound:,} allowed)"),
            ("order violations", f"{figures.order_violations:,}"),
        ):
            terminalreporter.line(f"{name:<18} {text}")
    if privacy.searched_texts:
        size = (
            f"{privacy.searched_texts:,} logs, pages and state files, {privacy.searched_bytes / 1e6:.1f} MB"
        )
        terminalreporter.line(f"searched for secrets and patients: {size}")
    if not _covered and not _not_covered:
        return
    terminalreporter.section("servers")
    for name, version in sorted(_covered.items()):
        terminalreporter.line(f"covered: {name} ({version})")
    for name, reason in sorted(_not_covered.items()):
        terminalreporter.line(f"NOT covered: {name}: {reason}")
    if not _covered:
        terminalreporter.line("failed: at least one server must be there; run tests/setup_servers.sh")

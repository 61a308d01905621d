"""The fault suite: what every case is made of, which server each runs on, and the figures at its end.

A fault is met by the same code on every server, so each test runs on one of them, taken in turn; a test marked
`each_server` runs on all, because there the servers differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.faults.case import Case, MakeCase
from tests.faults.proxy import Proxy
from tests.indexer import Indexer
from tests.pacs import Pacs
from tests.receiver import Receiver
from tests.servers import Server

_HERE = Path(__file__).parent

#: A server of this suite's own for each flavour: its tests kill it, and the next one finds it running again.
_hurt: dict[str, Server] = {}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "each_server: runs on every server, not on one of them in turn")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == _HERE and not item.get_closest_marker("each_server"):
            item.add_marker("one_server")


@pytest.fixture
def hurt_server(flavour: str, server: Server) -> Server:
    """A server that a test may kill, restart, purge and reset; running when the test begins."""
    del server  # it skips where there is none of this flavour
    if flavour not in _hurt:
        _hurt[flavour] = Server.start_new(flavour)
    elif not _hurt[flavour].running:
        _hurt[flavour].start()
    return _hurt[flavour]


@pytest.fixture
def make_case(tmp_path: Path, receiver: Receiver) -> Iterator[MakeCase]:
    """make_case(pacs, url=..., **settings): the settings of the indexer are those of tests/indexer.py."""
    with ExitStack() as stack:

        def make(pacs: Pacs, *, url: str = "", **settings: Any) -> Case:
            delivery = {"settle_seconds": 0.5, **settings.pop("delivery", {})}
            indexer = Indexer(tmp_path / "indexer", pacs, url or receiver.url, delivery=delivery, **settings)
            made = Case(pacs, receiver, indexer)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def case(pacs: Pacs, make_case: MakeCase) -> Case:
    """An archive on the shared server, for faults that don't touch the server."""
    return make_case(pacs)


@pytest.fixture
def hurt_case(hurt_server: Server, make_case: MakeCase) -> Iterator[Case]:
    """An archive on a server that the test may hurt."""
    pacs = Pacs.create(hurt_server)
    yield make_case(pacs)
    if not hurt_server.running:
        hurt_server.start()
    pacs.destroy()


@pytest.fixture
def proxied() -> Iterator[Callable[[int], Proxy]]:
    """proxied(port): a line to that port that the test may break."""
    with ExitStack() as stack:
        yield lambda port: stack.enter_context(Proxy(port))


def pytest_sessionfinish() -> None:
    for one in _hurt.values():
        one.destroy()

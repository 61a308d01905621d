"""What systemd is told, over real sockets."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cdc_indexer.jobs.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """What NOTIFY_SOCKET says, and the socket."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@cdc-indexer-test-{os.getpid()}"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sock:
        sock.bind(name.replace("@", "\0", 1))
        sock.settimeout(5)
        yield name, sock


def test_what_is_told(systemd: tuple[str, socket.socket]) -> None:
    name, sock = systemd
    now = [100.0]
    notifier = Notifier(
        {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())},
        clock=lambda: now[0],
    )
    notifier.ready()
    notifier.alive()
    notifier.alive()
    now[0] += 9.9
    notifier.alive()
    now[0] += 0.2
    notifier.alive()
    notifier.stopping()
    told = [sock.recv(100) for _ in range(4)]
    assert told == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1", b"STOPPING=1"]


@pytest.mark.parametrize(
    "environ",
    [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}],
)
def test_no_watchdog_unless_it_is_asked_for_and_meant_for_us(environ: dict[str, str], tmp_path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), **environ}).alive()
        with pytest.raises(BlockingIOError):
            sock.recv(100)


def test_a_systemd_that_is_not_there_or_does_not_read_is_no_trouble(tmp_path: Path) -> None:
    Notifier({}).ready()
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).ready()
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sock:
        sock.bind(str(tmp_path / "notify"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        for _ in range(2000):
            notifier.ready()

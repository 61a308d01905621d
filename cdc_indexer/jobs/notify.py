"""Tells systemd how the service is (sd_notify): a datagram to the socket that NOTIFY_SOCKET names, if there is one."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping

__all__ = ["Notifier"]


class Notifier:
    """READY=1, WATCHDOG=1 and STOPPING=1 of sd_notify(3); does nothing outside systemd.

    What can't be told is lost: the studies are more important than systemd's view of us.
    """

    def __init__(
        self, environ: Mapping[str, str] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        environ = os.environ if environ is None else environ
        address = environ.get("NOTIFY_SOCKET", "")
        # "@" stands for the zero byte of an abstract socket.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._clock = clock
        self._watchdog_seconds = _watchdog_seconds(environ)
        self._next_watchdog = 0.0

    def ready(self) -> None:
        """The service has started."""
        self._tell("READY=1")

    def stopping(self) -> None:
        """The service has begun to end."""
        self._tell("STOPPING=1")

    def alive(self) -> None:
        """Feeds the watchdog, three times in the period that systemd asks for; may be called as often as one likes."""
        if self._watchdog_seconds and self._clock() >= self._next_watchdog:
            self._next_watchdog = self._clock() + self._watchdog_seconds / 3
            self._tell("WATCHDOG=1")

    def _tell(self, state: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                # A systemd that doesn't read must not stop us.
                sock.setblocking(False)
                sock.sendto(state.encode(), self._address)
        except OSError:
            pass


def _watchdog_seconds(environ: Mapping[str, str]) -> float:
    """How often systemd wants to hear of us; 0 when it doesn't, or means another process."""
    try:
        pid = environ.get("WATCHDOG_PID")
        if pid is not None and int(pid) != os.getpid():
            return 0.0
        return int(environ.get("WATCHDOG_USEC", "0")) / 1_000_000
    except ValueError:
        return 0.0

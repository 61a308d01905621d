"""Ports of the loopback interface for servers that are stopped and started again."""

from __future__ import annotations

import asyncio
import random
import socket
from pathlib import Path

#: From taking a connection to its protocol being told, asyncio goes round three times, a stream's handler begins two later.
_ROUNDS = 8


def free_port() -> int:
    """A free TCP port on 127.0.0.1, below the range from which the kernel picks the ports of outgoing connections.

    Inside that range another connection may take the port while its server is down, and a client that keeps trying to
    connect can even be connected to itself.
    """
    lowest_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    candidates = range(max(1024, lowest_outgoing - 12_000), lowest_outgoing)
    for port in random.sample(candidates, min(100, len(candidates))):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port between {candidates.start} and {lowest_outgoing}")


async def stop_listening(server: asyncio.Server) -> None:
    """Closes a server of the running loop, and leaves no connection half taken.

    Server.close() alone makes asyncio forget those that it has accepted and not yet handed over; nobody closes them then.
    """
    loop = asyncio.get_running_loop()
    for sock in server.sockets:
        loop.remove_reader(sock.fileno())
    for _ in range(_ROUNDS):
        await asyncio.sleep(0)
    server.close()

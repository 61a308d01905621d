"""The private names of urllib3 that we need, and nothing else: tests/unit/test_urllib3.py says what broke when it moves.

A connection of its own, outside ``urlopen``: that reads the answer itself, and waits for it.
"""

from __future__ import annotations

import re
from typing import Any

#: What http.client and urllib3 raise, as a plain OSError, for a proxy that doesn't open a way.
_TUNNEL = re.compile(r"Tunnel connection failed: (\d{3})\b")


class ProxyRefuses(Exception):
    """A proxy has answered CONNECT with another status than 200."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def connected(pool: Any, timeout_seconds: float, *, by_tunnel: bool) -> Any:
    """A new connection of this pool, connected and, with https, verified; ``by_tunnel``: by CONNECT through its proxy."""
    connection = pool._get_conn()
    connection.timeout = timeout_seconds
    try:
        if by_tunnel:
            pool._prepare_proxy(connection)
        else:
            connection.connect()
    except OSError as error:
        connection.close()
        refused = _TUNNEL.match(str(error))
        if refused is not None:
            raise ProxyRefuses(int(refused[1])) from None
        raise
    except BaseException:
        connection.close()
        raise
    return connection

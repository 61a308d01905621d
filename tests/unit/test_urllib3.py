"""What delivery/_urllib3.py takes from urllib3 and http.client by names and words that nobody promises.

If one of these fails after a version has moved, that module is the only place to mend.
"""

from __future__ import annotations

import inspect
import socket
import threading
from importlib.metadata import version

import pytest
from requests.adapters import HTTPAdapter
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from cdc_indexer.delivery import _urllib3

VERSIONS = f"urllib3 {version('urllib3')}, requests {version('requests')}"


@pytest.mark.parametrize("pool", [HTTPConnectionPool, HTTPSConnectionPool])
@pytest.mark.parametrize(("name", "arguments"), [("_get_conn", []), ("_prepare_proxy", ["conn"])])
def test_the_private_names_are_there(pool: type, name: str, arguments: list[str]) -> None:
    method = getattr(pool, name, None)
    assert method is not None, f"{VERSIONS}: {pool.__name__}.{name} is gone; see delivery/_urllib3.py"
    needed = [
        parameter.name
        for parameter in inspect.signature(method).parameters.values()
        if parameter.default is parameter.empty and parameter.name != "self"
    ]
    assert needed == arguments, f"{VERSIONS}: {pool.__name__}.{name} takes other arguments now"


def test_each_connection_is_a_new_one_with_the_timeout_that_is_set() -> None:
    """``_get_conn`` of a pool to which nothing is ever given back."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        pool = HTTPAdapter(pool_connections=1, pool_maxsize=1).poolmanager.connection_from_url(
            f"http://127.0.0.1:{server.getsockname()[1]}/"
        )
        first, second = (_urllib3.connected(pool, 3.0, by_tunnel=False) for _ in range(2))
        try:
            assert first is not second, f"{VERSIONS}: _get_conn gives the same connection twice"
            assert first.sock.gettimeout() == 3.0, f"{VERSIONS}: a connection's timeout is set otherwise"
        finally:
            first.close()
            second.close()


def test_a_proxy_that_refuses_is_known_by_its_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        proxy = f"http://127.0.0.1:{server.getsockname()[1]}"
        pool = HTTPAdapter().proxy_manager_for(proxy).connection_from_url("https://index.invalid/")
        try:
            with pytest.raises(_urllib3.ProxyRefuses) as refused:
                _urllib3.connected(pool, 3.0, by_tunnel=True)
        except OSError as error:
            pytest.fail(f"{VERSIONS}: a proxy that refuses is said otherwise now: {error}")
        finally:
            thread.join()
    assert refused.value.status == 407

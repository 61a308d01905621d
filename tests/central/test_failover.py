"""The primary is killed under load, its synchronous standby promoted: nothing accepted is lost, nothing older wins."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
import requests

from tests.central.conftest import READER, WRITER, Index, MakeIndex, study
from tests.central.postgres import Cluster, started
from tests.indexer import wait_until
from tests.ports import free_port

STUDIES = 40
REPLICATING = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"


@pytest.fixture
def pair() -> Iterator[tuple[Cluster, Cluster]]:
    """A primary that commits nothing before its standby has it, and the standby."""
    with ExitStack() as stack:
        primary = stack.enter_context(started(synchronous_standby_names="*", synchronous_commit="on"))
        standby = Cluster()
        stack.callback(standby.remove)
        standby.copy_of(primary)
        standby.start()
        wait_until(lambda: primary.execute("postgres", REPLICATING) != [], 20, "the standby doesn't follow")
        yield primary, standby


class Load:
    """Four who send versions without rest, and know what was accepted."""

    def __init__(self, urls: list[str]) -> None:
        self._urls = urls
        self.accepted: dict[str, int] = {}
        self.statuses: set[int | str] = set()
        self.last_accepted = 0.0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=[number]) for number in range(4)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def goes_on(self, since: float) -> bool:
        return self.last_accepted > since

    def _send(self, number: int) -> None:
        rng = random.Random(number)
        with requests.Session() as session:
            session.trust_env = False
            while not self._stopping.is_set():
                url = rng.choice(self._urls)
                study_number = rng.randrange(STUDIES)
                # Now and then an old one that comes late.
                version = time.time_ns() // 1000 - rng.choice([0, 0, 0, 2_000_000])
                self._one(session, url, study_number, version, rng.random() < 0.1)

    def _one(self, session: requests.Session, base: str, number: int, version: int, delete: bool) -> None:
        iuid = f"1.2.840.{number}"
        headers = {
            "X-Api-Key": WRITER,
            "Study-Version": str(version),
            "Idempotency-Key": f"{number}/{version}",
        }
        url = f"{base}/api/v1/register"
        document = study(number, study_description=str(version))
        try:
            if delete:
                answer = session.delete(f"{url}/{iuid}", headers=headers, timeout=15)
            else:
                answer = session.post(url, json=document, headers=headers, timeout=15)
        except requests.RequestException as error:
            self.statuses.add(type(error).__name__)
            return
        with self._lock:
            self.statuses.add(answer.status_code)
            if answer.status_code in (200, 201, 404):
                self.accepted[iuid] = max(version, self.accepted.get(iuid, 0))
                self.last_accepted = time.monotonic()


def _follow(stack: ExitStack, primary: Cluster, port: int) -> Cluster:
    """A new standby where the killed one was, without which nothing is committed from here on."""
    standby = Cluster()
    stack.callback(standby.remove)
    standby.port = port
    standby.copy_of(primary)
    standby.start()
    primary.execute("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'")
    primary.execute("postgres", "SELECT pg_reload_conf()")
    wait_until(lambda: primary.execute("postgres", REPLICATING) != [], 60, "the new standby doesn't follow")
    return standby


_NGINX = """
daemon off; pid {directory}/pid; error_log {directory}/error.log; {user}
events {{ }}
http {{
    access_log off; keepalive_requests 100000000; client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
    upstream central {{ {servers} }}
    server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://central; }} }}
}}
"""


@contextmanager
def _behind_nginx(directory: Path, indexes: list[Index]) -> Iterator[str]:
    """The address of a proxy before them, as it comes: nothing set but where they are."""
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if nginx is None:
        pytest.skip("nginx isn't there: tests/setup_servers.sh bench")
    port = free_port()
    servers = " ".join(f"server {one.url.removeprefix('http://')};" for one in indexes)
    user = "user root;" if os.geteuid() == 0 else ""
    config = directory / "nginx.conf"
    config.write_text(_NGINX.format(directory=directory, servers=servers, port=port, user=user))
    with subprocess.Popen([nginx, "-p", str(directory), "-c", str(config)]) as process:
        try:
            wait_until(partial(_listens, port), 10, "nginx doesn't begin")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


LONG = [pytest.mark.soak, pytest.mark.timeout(1800)]


@pytest.mark.parametrize(
    ("times", "behind"),
    [(1, False), pytest.param(10, False, marks=LONG), pytest.param(2, True, marks=LONG)],
)
def test_a_killed_primary_loses_nothing(
    pair: tuple[Cluster, Cluster], make_index: MakeIndex, tmp_path: Path, times: int, behind: bool
) -> None:
    primary, standby = pair
    took: list[float] = []
    name = primary.new_database().rpartition("/")[2]
    # In either order: the one that can be written to is found.
    hosts = [f"127.0.0.1:{primary.port}", f"127.0.0.1:{standby.port}"]
    urls = [f"postgresql://tests@{','.join(some)}/{name}" for some in (hosts, hosts[::-1])]
    indexes = [make_index(database=url) for url in urls]
    for one in indexes:
        one.start()
    with ExitStack() as stack:
        urls = [one.url for one in indexes]
        if behind:
            urls = [stack.enter_context(_behind_nginx(tmp_path, indexes))]
        load = stack.enter_context(Load(urls))
        wait_until(lambda: len(load.accepted) == STUDIES, 60, "the load doesn't begin")
        for number in range(times):
            if number > 0:
                primary, standby = standby, _follow(stack, standby, primary.port)
            time.sleep(1)
            primary.kill()
            time.sleep(1)
            standby.promote()
            promoted = time.monotonic()
            wait_until(
                partial(load.goes_on, promoted), 10, "it doesn't come back within 10 s of the promotion"
            )
            took.append(load.last_accepted - promoted)
            time.sleep(1)
        load.stop()
        _check(standby, name, load)
        # And both processes go on, for people too.
        for one in indexes:
            assert one.ask("GET", "/api/v1/studies", READER).status_code == 200, one.log[-2000:]
            assert "Traceback" not in one.log
    print(
        f"{times} times: {len(load.accepted)} studies, back after {max(took):.1f} s at most, answers {load.statuses}"
    )


def _check(standby: Cluster, name: str, load: Load) -> None:
    # 502 is the proxy's.
    assert load.statuses <= {200, 201, 404, 409, 502, 503}, load.statuses
    rows = standby.execute(name, "SELECT study_iuid, version, deleted, study_description FROM studies")
    held = {iuid: version for iuid, version, _, _ in rows}
    lost = {iuid: version for iuid, version in load.accepted.items() if held.get(iuid, 0) < version}
    assert lost == {}
    # What is kept is what came with that version.
    assert [iuid for iuid, version, deleted, said in rows if not deleted and said != str(version)] == []


def test_searches_may_go_to_the_standby(pair: tuple[Cluster, Cluster], make_index: MakeIndex) -> None:
    primary, standby = pair
    database = primary.new_database()
    index = make_index(database=database)
    index.options["CENTRAL_READ_DATABASE"] = standby.url(database.rpartition("/")[2])
    index.start()
    assert index.post(study()).status_code == 201
    wait_until(lambda: len(index.studies(patient="pena")) == 1, 10, "the standby doesn't get it")
    # What decides comes from the primary, also while the standby stands still.
    standby.execute("postgres", "SELECT pg_wal_replay_pause()")
    index.post(study(2), key=WRITER)
    answer = index.ask("POST", "/api/v1/register/digests", WRITER, json={"ranges": [[None, None]]})
    assert answer.json()["ranges"][0]["count"] == 2
    assert len(index.studies()) == 1
    standby.execute("postgres", "SELECT pg_wal_replay_resume()")
    wait_until(lambda: len(index.studies()) == 2, 10, "the standby doesn't go on")

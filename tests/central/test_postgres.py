"""Many processes on one PostgreSQL: what they share, and what happens while it is away."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from central_index import postgres_schema
from tests.central.conftest import READER, WRITER, Index, MakeIndex, study
from tests.central.postgres import Cluster
from tests.indexer import wait_until


@pytest.fixture
def engine() -> str:
    return "postgresql"


@pytest.fixture
def siblings(index: Index, make_index: MakeIndex) -> list[Index]:
    """Three processes on one database."""
    others = [make_index(database=index.database) for _ in range(2)]
    for one in others:
        one.start()
    return [index, *others]


def test_no_older_version_wins_and_none_deadlocks(siblings: list[Index]) -> None:
    """Batches that overlap, in any order, through three processes at once; with versions and without."""
    rng = random.Random(5)
    highest = dict.fromkeys(range(60), 0)
    batches = []
    for version in range(1, 90):
        numbers = rng.sample(range(60), 25)
        batches.append(
            [
                study(n, version=version, study_instances=version, idempotency_key=f"{n}/{version}")
                for n in numbers
            ]
        )
        highest |= dict.fromkeys(numbers, version)
    rng.shuffle(batches)

    def send(pair: tuple[int, list[dict[str, Any]]]) -> list[tuple[int, int]]:
        place, batch = pair
        results = siblings[place % 3].post(batch).json()["results"]
        return [(one["study_pk"], result["status"]) for one, result in zip(batch, results, strict=True)]

    with ThreadPoolExecutor(9) as pool:
        answers = [answer for some in pool.map(send, enumerate(batches)) for answer in some]
    assert {status for _, status in answers} <= {201, 409}
    studies = siblings[1].studies(limit=500)
    held = {one["study_pk"]: one["study_instances"] for one in studies}
    assert held == {number: version for number, version in highest.items() if version}
    # What was answered with 201 was carried out.
    accepted = Counter(number for number, status in answers if status == 201)
    assert {one["study_pk"]: one["versions"] for one in studies} == accepted
    unversioned = [[study(n, study_instances=1000) for n in rng.sample(range(60), 40)] for _ in range(30)]
    with ThreadPoolExecutor(9) as pool:
        answers = [answer for some in pool.map(send, enumerate(unversioned)) for answer in some]
    accepted += Counter(number for number, _ in answers)
    assert {status for _, status in answers} == {201}
    assert {one["study_pk"]: one["versions"] for one in siblings[2].studies(limit=500)} == accepted


def test_a_key_that_one_process_knows_all_know(siblings: list[Index]) -> None:
    siblings[0].post(study(study_instances=1), "key-1")
    siblings[1].post(study(study_instances=2), "key-2")
    assert siblings[2].post(study(study_instances=1), "key-1").status_code == 201
    assert siblings[0].studies()[0]["study_instances"] == 2


def test_logins_are_everywhere_and_so_is_their_limit(siblings: list[Index]) -> None:
    cookie = siblings[0].ask("POST", "/login", json={"key": READER}).headers["Set-Cookie"].partition(";")[0]
    for one in siblings:
        assert one.ask("POST", "/api/v1/search", json={}, headers={"Cookie": cookie}).status_code == 200
    siblings[1].ask("POST", "/logout", headers={"Cookie": cookie})
    for one in siblings:
        assert one.ask("POST", "/api/v1/search", json={}, headers={"Cookie": cookie}).status_code == 401
    for number in range(30):
        assert siblings[number % 3].ask("POST", "/login", json={"key": "guess"}).status_code == 401
    assert {one.ask("POST", "/login", json={"key": READER}).status_code for one in siblings} == {429}


def test_a_page_is_told_what_another_process_wrote(siblings: list[Index]) -> None:
    with siblings[1].session.get(
        f"{siblings[1].url}/events", headers={"X-Api-Key": READER}, stream=True, timeout=20
    ) as stream:
        lines = (line for line in stream.iter_lines(chunk_size=1) if line)
        assert next(lines) == b"retry: 2000"
        writer = threading.Thread(target=siblings[0].post, args=[study()])
        writer.start()
        assert next(lines) == b"data: changed"
        writer.join()


def test_a_session_isnt_in_the_database_as_its_cookie(index: Index) -> None:
    cookie = (
        index.ask("POST", "/login", json={"key": READER})
        .headers["Set-Cookie"]
        .partition(";")[0]
        .partition("=")[2]
    )
    stored = str(
        index.rows("SELECT encode(name_digest, 'escape'), encode(key_digest, 'escape') FROM sessions")
    )
    assert cookie not in stored
    assert READER not in stored


def test_while_the_database_is_away_it_says_so_and_goes_on_afterwards(index: Index, cluster: Cluster) -> None:
    assert index.post(study(1)).status_code == 201
    cluster.stop()
    try:
        with ThreadPoolExecutor(4) as pool:
            asked = [
                pool.submit(index.post, study(2)),
                pool.submit(index.ask, "DELETE", "/api/v1/register/1.2.840.1", WRITER),
                pool.submit(index.ask, "GET", "/api/v1/studies", READER),
                pool.submit(index.ask, "POST", "/api/v1/register/digests", WRITER, json={"ranges": []}),
            ]
            answers = [one.result() for one in asked]
        assert [answer.status_code for answer in answers] == [503] * 4
        assert {answer.headers["Retry-After"] for answer in answers} == {"5"}
        # What needs no database is answered.
        assert index.ask("GET", "/api/v1/register", WRITER).status_code == 200
    finally:
        cluster.start()
    wait_until(lambda: index.post(study(3)).status_code == 201, 20, "it doesn't come back")
    assert [one["study_pk"] for one in index.studies()] == [3, 1]
    assert "Traceback" not in index.log


def test_a_database_of_a_later_format_is_left_alone(cluster: Cluster, make_index: MakeIndex) -> None:
    url = cluster.new_database()
    cluster.execute(url.rpartition("/")[2], "INSERT INTO index_format (format) VALUES (99)")
    index = make_index(database=url)
    with pytest.raises(AssertionError, match=r"The database is of format 99, this program knows \d\."):
        index.start()
    assert "Traceback" not in index.log


def test_a_database_that_can_t_hold_every_name_is_refused(cluster: Cluster, make_index: MakeIndex) -> None:
    cluster.execute("postgres", "CREATE DATABASE narrow ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    index = make_index(database=cluster.url("narrow"))
    with pytest.raises(AssertionError, match=r"The database's encoding is LATIN1, and names need UTF8"):
        index.start()
    assert "Traceback" not in index.log


def test_an_address_that_leads_nowhere_is_one_sentence(
    make_index: MakeIndex,
) -> None:
    index = make_index(database="postgresql://user:XQZPASSWORD@127.0.0.1:1/index")
    with pytest.raises(AssertionError, match="The database can't be used: no connection within 5 s"):
        index.start()
    assert "XQZPASSWORD" not in index.log
    assert "Traceback" not in index.log


def test_many_processes_may_make_the_tables_at_once(cluster: Cluster, make_index: MakeIndex) -> None:
    url = cluster.new_database(empty=True)
    made = [make_index(database=url) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(Index.start, made))
    assert [one.post(study(number)).status_code for number, one in enumerate(made)] == [201] * 3
    assert cluster.execute(url.rpartition("/")[2], "SELECT format FROM index_format") == [
        (postgres_schema.FORMAT,)
    ]


def test_a_cancelled_wait_for_the_standby_is_no_201(cluster: Cluster, index: Index) -> None:
    """PostgreSQL then says that the commit is done, with a warning: the study is on the primary alone."""
    cluster.execute("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    cluster.execute("postgres", "SELECT pg_reload_conf()")
    try:
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(index.post, study())
            waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = 'central-index'"
            wait_until(lambda: cluster.execute("postgres", waiting) != [], 10, "nobody waits for the standby")
            time.sleep(0.2)
            assert not answer.done()
            cluster.execute("postgres", waiting.replace("SELECT pid", "SELECT pg_cancel_backend(pid)"))
            assert answer.result(20).status_code == 503
    finally:
        cluster.execute("postgres", "ALTER SYSTEM RESET synchronous_standby_names")
        cluster.execute("postgres", "SELECT pg_reload_conf()")
    # What was asked for is there or isn't; asked again, it is.
    assert index.post(study()).status_code == 201

"""Clients that never read, or slowly: they are ended in time, nobody waits for them, and nothing is kept for them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest
import requests

from tests.central.conftest import READER, Index, MakeIndex, study
from tests.central.postgres import Cluster
from tests.central.process import Memory
from tests.central.test_too_large import answer as answer_to
from tests.central.test_too_large import others
from tests.indexer import wait_until

READER_SECONDS, REQUEST_SECONDS, IDLE_SECONDS = 1.5, 2.0, 3
STUDIES = 3_000
#: So many fill what the kernel takes, and not what the process lets wait before it says that nobody reads.
OF_MIDDLE_SIZE = 440
#: Of the kernel, at the client's side.
_SMALL_BYTES = 4_096
#: Of a dozen searches at one time, each page by page.
_FLAT_MB = 65.0

#: The index itself, with limits that a test can wait for. A search for AWAY finds the database away at the second page.
PROGRAM = f"""
import sqlite3
import uvicorn
from central_index import impatient, postgres_store, sqlite_store
from central_index.cli import main
from central_index.model import StoreUnavailable
impatient.READER_SECONDS, impatient.REQUEST_SECONDS = {READER_SECONDS}, {REQUEST_SECONDS}
class Config(uvicorn.Config):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options | {{"timeout_keep_alive": {IDLE_SECONDS}}})
uvicorn.Config = Config
def away(store):
    real = store.search
    async def search(self, filters):
        if filters.patient == "THORAX^AWAY" and filters.after is not None:
            raise StoreUnavailable("THORAX^AWAY") from sqlite3.OperationalError("THORAX^AWAY")
        return await real(self, filters)
    store.search = search
away(sqlite_store.SqliteStore)
away(postgres_store.PostgresStore)
main()
"""


def asking(wanted: dict[str, str]) -> bytes:
    """For a search as CSV."""
    body = json.dumps(wanted)
    return (
        f"POST /api/v1/search.csv HTTP/1.1\r\nHost: index\r\nX-Api-Key: {READER}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


@pytest.fixture(scope="module")
def full(engine: str, _clusters: Callable[[], Cluster], _make_indexes: MakeIndex) -> Index:
    """One with enough for an answer that no buffer of the kernel takes whole."""
    one = _make_indexes(None if engine == "sqlite" else _clusters())
    one.program = ("-c", PROGRAM)
    one.start()
    name = "THORAX^AWAY"
    for first in range(0, STUDIES, 1_000):
        batch = [
            study(
                number,
                patient_name=name,
                study_description="x" * 250,
                study_modality="MR" if number < OF_MIDDLE_SIZE else "CT",
            )
            for number in range(first, first + 1_000)
        ]
        assert {result["status"] for result in one.post(batch).json()["results"]} == {201}
    return one


def test_who_never_reads_is_ended_and_holds_nobody_up(full: Index) -> None:
    memory = Memory(full.pid)
    open_before = full.connections()
    # Of each kind: one answer; several; one after which the connection is to end; one that fits into the buffers.
    large = asking({})
    middle = asking({"modality": "MR"})
    asked = [large, 10 * large, large.replace(b"Host:", b"Connection: close\r\nHost:"), middle]
    asked.append(middle.replace(b"Host:", b"Connection: close\r\nHost:"))
    asked.append(b"GET /static/page.js HTTP/1.1\r\nHost: index\r\n\r\n")
    with ExitStack() as stack:
        with others(full):
            for number in range(24):
                connection = stack.enter_context(full.connect(_SMALL_BYTES))
                connection.sendall(asked[number % len(asked)])
            wait_until(lambda: full.connections() >= open_before + 24, 5, "not connected")
            time.sleep(READER_SECONDS)
            # No transaction waits for them.
            assert full.waiting_transactions() == 0
            answer = requests.get(f"{full.url}/api/v1/studies", headers={"X-Api-Key": READER}, timeout=20)
            assert len(answer.json()["studies"]) > 20
        limit = READER_SECONDS + IDLE_SECONDS + 2
        wait_until(lambda: full.connections() <= open_before, limit, "they stay")
    assert memory.grown_mb() < _FLAT_MB
    # Nothing is looked for any more that nobody will read.
    said = [json.loads(line) for line in full.log.splitlines()]
    assert {one["studies"] for one in said if one["event"] == "export"} <= {OF_MIDDLE_SIZE}


def test_who_reads_slowly_gets_all(full: Index) -> None:
    with full.connect(_SMALL_BYTES) as connection:
        connection.sendall(asking({"center": "000"}))
        began = time.monotonic()
        heard = bytearray()
        while not heard.endswith(b"\r\n0\r\n\r\n"):
            some = connection.recv(65_536)
            assert some, "cut short"
            heard += some
            if time.monotonic() - began < 2 * READER_SECONDS:
                time.sleep(0.02)
        # Who has read all isn't one who doesn't read.
        time.sleep(READER_SECONDS + 0.5)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: index\r\n\r\n")
        assert answer_to(connection)[0] == 200
    assert time.monotonic() - began > 2 * READER_SECONDS
    assert heard.count(b",THORAX^AWAY,") == STUDIES


def test_a_search_as_csv_that_fails_in_the_middle_isn_t_taken_for_whole(full: Index) -> None:
    answer = requests.post(
        f"{full.url}/api/v1/search.csv", json={"patient": "THORAX^AWAY"}, headers={"X-Api-Key": READER},
        timeout=20, stream=True,
    )  # fmt: skip
    assert answer.status_code == 200
    with answer, pytest.raises(requests.exceptions.ChunkedEncodingError):
        assert answer.content
    wait_until(lambda: "A search as CSV was cut short: look at the database." in full.log, 5, "not said")
    assert "AWAY" not in full.log
    assert "Traceback" not in full.log

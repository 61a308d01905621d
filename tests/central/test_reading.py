"""What people may see of the reference central index."""

from __future__ import annotations

import csv
import io
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from central_index.reading import _MOST_EXPORTED
from tests.central.conftest import READER, WRITER, Index, MakeIndex, study

#: The index itself, with a CSV of so many studies at most.
LITTLE_CSV = """
from central_index import reading
from central_index.cli import main
reading._MOST_EXPORTED = 1_000
main()
"""


@pytest.mark.parametrize("path", ["/api/v1/studies", "/events"])
def test_reading_needs_a_readers_key(shared_index: Index, path: str) -> None:
    assert shared_index.ask("GET", path).status_code == 401
    assert shared_index.ask("GET", path, "wrong").status_code == 401
    assert shared_index.ask("GET", path, WRITER).status_code == 403


def test_searching_needs_a_readers_key(index: Index) -> None:
    assert index.ask("POST", "/api/v1/search", json={}).status_code == 401
    assert index.ask("POST", "/api/v1/search", WRITER, json={}).status_code == 403
    assert index.ask("POST", "/api/v1/search", READER, json={}).status_code == 200


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, [4, 3, 2, 1]),
        ({"patient": "pena"}, [2, 1]),
        ({"patient": "Peña jose"}, [1]),
        ({"patient": "JOS pe"}, [1]),
        ({"patient": "26267267-K"}, [1]),
        ({"patient": '"; DROP'}, []),
        ({"patient": "NEAR(pena)"}, []),
        ({"patient": "  "}, []),
        ({"patient_id": "77"}, [3]),
        ({"study_iuid": "1.2.840.2"}, [2]),
        ({"modality": "sr"}, [4, 1]),
        ({"modality": "C"}, []),
        ({"center": "000"}, [4, 3, 2, 1]),
        ({"center": "999"}, []),
        ({"from": "2026-03-02"}, [3, 2]),
        ({"to": "2026-03-01"}, [1]),
        ({"from": "2026-03-01", "to": "2026-03-02"}, [2, 1]),
        ({"patient": "pena", "modality": "MR"}, [2]),
        ({"limit": "2"}, [4, 3]),
        ({"patient": ""}, [4, 3, 2, 1]),
    ],
)
def test_filters(filled_index: Index, filters: dict[str, str], found: list[int]) -> None:
    assert [held["study_pk"] for held in filled_index.studies(**filters)] == found
    answer = filled_index.ask("POST", "/api/v1/search", READER, json=filters)
    assert [held["study_pk"] for held in answer.json()["studies"]] == found


@pytest.fixture(scope="module")
def filled_index(shared_index: Index) -> Index:
    shared_index.post(
        [
            study(1),
            study(2, patient_name="PENA^ANA", patient_id="2", study_modality="MR", study_datetime="2026-03-02 23:59:59"),
            study(3, patient_name="NÚÑEZ^EVA", patient_id="77", study_modality="US", study_datetime="2026-03-03 00:00:00"),
            study(4, patient_name=None, patient_id=None, study_modality="SR", study_datetime=None),
        ]
    )  # fmt: skip
    return shared_index


@pytest.mark.parametrize(
    ("filters", "reason"),
    [
        ({"name": "x"}, "A filter isn't known"),
        ({"from": "1.3.2026"}, "from must be a date, YYYY-MM-DD."),
        ({"from": "2026-02-30"}, "from must be a date, YYYY-MM-DD."),
        ({"limit": "501"}, "limit must be a number from 1 to 500."),
        ({"limit": "0"}, "limit must be a number from 1 to 500."),
        ({"after": "x"}, "after must be what an answer said as next."),
        ({"patient": "x" * 251}, "patient must be words of at most 250 characters."),
    ],
)
def test_a_filter_that_means_nothing_is_refused(
    shared_index: Index, filters: dict[str, Any], reason: str
) -> None:
    for answer in (
        shared_index.ask("GET", "/api/v1/studies", READER, params=filters),
        shared_index.ask("POST", "/api/v1/search", READER, json=filters),
    ):
        assert answer.status_code == 422
        assert answer.json()["reason"].startswith(reason)


def test_sql_in_every_field_is_text(index: Index) -> None:
    evil = [
        "'; DROP TABLE studies; --",
        '" OR 1=1 --',
        "' & ! | ( ) : * \\ <-> '",
        "%",
        "_",
        "%s",
        "?",
        "$1",
        ":*",
        "{}",
    ]
    for number, one in enumerate(evil, 1):
        texts = dict.fromkeys(
            ("patient_id", "patient_name", "study_description", "study_modality", "accession_number"), one
        )
        assert index.post(study(number, **texts, study_iuid=f"{one}{number}")).status_code == 201
    for number, one in enumerate(evil, 1):
        for name, value in (("patient_id", one), ("accession_number", one), ("study_iuid", f"{one}{number}")):
            assert [held["study_pk"] for held in index.studies(**{name: value})] == [number], (name, value)
        for name in ("patient", "modality", "center"):
            index.studies(**{name: one})
    assert len(index.studies()) == len(evil)


def test_a_filter_may_not_come_twice(index: Index) -> None:
    answer = index.ask("GET", "/api/v1/studies?center=000&center=111", READER)
    assert answer.status_code == 422


def test_pages_show_every_study_once_while_others_arrive(index: Index) -> None:
    index.post([study(number) for number in range(1, 26)])
    seen: list[int] = []
    after = None
    while True:
        answer = index.ask("GET", "/api/v1/studies", READER, params={"limit": 10, "after": after}).json()
        seen += [held["study_pk"] for held in answer["studies"]]
        index.post([study(1000 + len(seen)), study(5, study_instances=len(seen))])
        after = answer["next"]
        if after is None:
            break
    assert seen == list(range(25, 0, -1))


def test_what_is_searched_for_is_logged_without_its_terms(index: Index) -> None:
    index.post(study())
    index.studies(patient="jose", patient_id="26267267-K")
    index.ask("POST", "/api/v1/search", READER, json={"patient": "pena"})
    assert '"filters": ["patient", "patient_id"]' in index.log
    assert '"reader": "radiology"' in index.log
    for term in ("jose", "pena", "26267267", READER, WRITER):
        assert term not in index.log


def test_a_csv_that_is_cut_says_so(
    engine: str, make_index: MakeIndex, request: pytest.FixtureRequest
) -> None:
    """Nobody takes a part for the whole."""
    index = make_index(request.getfixturevalue("cluster") if engine == "postgresql" else None)
    index.program = ("-c", LITTLE_CSV)
    index.start()
    index.post([study(number) for number in range(1_000)])

    def lines() -> list[dict[str, str]]:
        answer = index.ask("POST", "/api/v1/search.csv", READER, json={"patient": "pena"})
        return list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig")), strict=True))

    assert len({line["study_iuid"] for line in lines()}) == 1_000
    index.post(study(1_000))
    *found, last = lines()
    assert len(found) == 1_000
    assert (
        last.pop("center") == "INCOMPLETE, cut after 1,000 studies / INCOMPLETO, cortado tras 1,000 estudios"
    )
    assert set(last.values()) == {""}
    assert "has too many studies" in index.log
    root = Path(__file__).resolve().parents[2]
    for name in ("docs/index-api.md", "docs/region.md"):
        assert f"{_MOST_EXPORTED:,} studies" in (root / name).read_text()


def test_a_login_opens_the_page_and_logging_out_closes_it(index: Index) -> None:
    assert index.ask("POST", "/login", json={"key": "wrong"}).status_code == 401
    assert index.ask("POST", "/login", json={"key": WRITER}).status_code == 401
    login = index.ask("POST", "/login", json={"key": READER})
    assert login.status_code == 200
    cookie = login.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert index.ask("POST", "/api/v1/search", json={}).status_code == 200
    # A login is for reading.
    assert index.ask("POST", "/api/v1/register", json=study()).status_code == 403
    assert index.ask("POST", "/logout").status_code == 200
    stolen = {"Cookie": cookie.partition(";")[0]}
    assert index.ask("GET", "/api/v1/studies", headers=stolen).status_code == 401


def test_a_login_ends_when_its_key_is_taken_out(index: Index) -> None:
    index.ask("POST", "/login", json={"key": READER})
    index.write_keys({"centers": {"000": WRITER}, "readers": {"radiology": "a-new-key-of-radiology"}})
    assert index.ask("POST", "/api/v1/search", json={}).status_code == 401


def test_guessing_is_slow(index: Index) -> None:
    for _ in range(30):
        assert index.ask("POST", "/login", json={"key": "guess"}).status_code == 401
    assert index.ask("POST", "/login", json={"key": READER}).status_code == 429


def test_searching_from_another_site_isnt_possible_with_a_form(index: Index) -> None:
    index.ask("POST", "/login", json={"key": READER})
    answer = index.ask("POST", "/api/v1/search", data='{"x=": 1}', headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415


@pytest.mark.parametrize("path", ["/", "/static/page.js", "/api/v1/studies", "/nothing"])
def test_every_answer_has_the_safe_headers(shared_index: Index, path: str) -> None:
    headers = shared_index.ask("GET", path).headers
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert "server" not in headers


def test_the_page_is_told_that_something_changed_and_not_what(index: Index) -> None:
    with index.session.get(
        f"{index.url}/events", headers={"X-Api-Key": READER}, stream=True, timeout=20
    ) as stream:
        lines = (line for line in stream.iter_lines(chunk_size=1) if line)
        assert next(lines) == b"retry: 2000"
        index_of_another_thread = threading.Thread(target=_post_one, args=[index])
        index_of_another_thread.start()
        assert next(lines) == b"data: changed"
        index_of_another_thread.join()


def test_news_come_at_most_once_a_second(index: Index) -> None:
    ended = threading.Event()

    def post() -> None:
        while not ended.is_set():
            _post_one(index)

    thread = threading.Thread(target=post)
    headers = {"X-Api-Key": READER}
    with index.session.get(f"{index.url}/events", headers=headers, stream=True, timeout=20) as stream:
        thread.start()
        try:
            came = [
                time.monotonic()
                for line, _ in zip(
                    (line for line in stream.iter_lines(chunk_size=1) if line.startswith(b"data")),
                    range(4),
                    strict=False,
                )
            ]
        finally:
            ended.set()
            thread.join()
    # The way here takes now longer, now shorter.
    assert came[-1] - came[0] > 2.8


def _post_one(index: Index) -> None:
    requests.post(
        f"{index.url}/api/v1/register", json=study(), headers={"X-Api-Key": WRITER}, timeout=20
    ).close()


def test_an_open_page_doesnt_keep_it_from_ending(index: Index) -> None:
    with index.session.get(
        f"{index.url}/events", headers={"X-Api-Key": READER}, stream=True, timeout=20
    ) as stream:
        assert next(stream.iter_lines(chunk_size=1)) == b"retry: 2000"
        began = time.monotonic()
        assert index.stop() == 0
        assert time.monotonic() - began < 4
    assert "Traceback" not in index.log

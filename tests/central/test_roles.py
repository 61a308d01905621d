"""What each reader may see, and how keys are changed."""

from __future__ import annotations

import csv
import io
import json
from datetime import date, timedelta
from typing import Any

import pytest

from tests.central import conftest
from tests.central.conftest import KEYS, READER, WRITER, Index, MakeIndex, study

OTHER = KEYS["centers"]["111"]
KEY = "key-of-one-who-sees-less"


def allow(index: Index, **values: Any) -> None:
    index.write_keys({**KEYS, "readers": {**KEYS["readers"], "less": {"keys": [KEY], **values}}})


def fill(index: Index) -> None:
    index.post([study(1), study(2, patient_id="77", patient_name="SOTO^ANA MARÍA", note="ANA")])
    index.post(study(3, center="111"), key=OTHER)


def search(index: Index, **filters: Any) -> Any:
    return index.ask("POST", "/api/v1/search", KEY, json=filters)


def test_a_reader_sees_his_centres_only(index: Index) -> None:
    fill(index)
    allow(index, centers=["111"])
    answer = search(index).json()
    assert [one["study_pk"] for one in answer["studies"]] == [3]
    assert (answer["total"], answer["hits"]) == (1, 1)
    assert search(index, patient="soto").json()["studies"] == []
    assert search(index, study_iuid="1.2.840.1").json()["studies"] == []
    assert search(index, modality="CT").json()["hits"] == 1
    assert search(index, center="000").status_code == 403
    assert len(search(index, center="111").json()["studies"]) == 1
    centers = index.ask("GET", "/api/v1/centers", KEY).json()["centers"]
    assert [one["center"] for one in centers] == ["111"]
    allow(index, centers=[])
    assert search(index).json()["studies"] == []


def test_a_reader_may_see_no_names(index: Index) -> None:
    fill(index)
    allow(index, names="initials")
    answer = search(index)
    shown = {one["study_iuid"]: one for one in answer.json()["studies"] if one["center"] == "000"}
    assert [shown[iuid]["patient_name"] for iuid in ("1.2.840.1", "1.2.840.2")] == ["P. J.", "S. A. M."]
    assert shown["1.2.840.1"]["patient_id"].startswith("P-")
    assert shown["1.2.840.1"]["patient_id"] != shown["1.2.840.2"]["patient_id"]
    for secret in ("PEÑA", "SOTO", "26267267", "ANA", "note", "THORAX", "patient_pk"):
        assert secret not in answer.text
    # Nor can he find out by asking.
    for asked in ({"patient": "soto"}, {"patient_id": "77"}, {"accession_number": "1"}):
        assert search(index, **asked).status_code == 403
    # One person is one pseudonym, in all centres.
    assert len({one["patient_id"] for one in search(index).json()["studies"]}) == 2


def test_a_reader_may_be_one_for_a_time(index: Index) -> None:
    fill(index)
    login = index.ask("POST", "/login", json={"key": READER})
    assert login.status_code == 200
    allow(index, until=str(date.today()))
    assert search(index).status_code == 200
    index.session.cookies.clear()
    assert index.ask("POST", "/login", json={"key": KEY}).status_code == 200
    assert index.ask("POST", "/api/v1/search", json={}).status_code == 200
    allow(index, until=str(date.today() - timedelta(days=1)))
    assert search(index).status_code == 401
    # And so are his logins.
    assert index.ask("POST", "/api/v1/search", json={}).status_code == 401


def test_a_key_gives_way_to_another_one(index: Index) -> None:
    for keys in ([WRITER], [WRITER, "the-new-key-of-000"], ["the-new-key-of-000"]):
        index.write_keys({**KEYS, "centers": {"000": {"keys": keys}}})
        for key in (WRITER, "the-new-key-of-000"):
            assert index.post(study(), key=key).status_code == (201 if key in keys else 401)


@pytest.mark.parametrize(
    "entry",
    [
        {"keys": []}, {"keys": [KEY, KEY + "2", KEY + "3"]}, {"keys": ["short"]}, {"keys": [KEY], "names": "some"},
        {"keys": [KEY], "until": "tomorrow"}, {"keys": [KEY], "center": ["000"]}, {"keys": [READER]}, {},
        {"keys": [KEY], KEY: True}, {"keys": [KEY], "until": 20270630}, [KEY], {"keys": [KEY], "disabled": "no"},
    ],
)  # fmt: skip
def test_a_mistake_in_the_keys_changes_nothing(index: Index, entry: dict[str, Any]) -> None:
    fill(index)
    index.write_keys({**KEYS, "readers": {**KEYS["readers"], "less": entry}})
    assert search(index).status_code == 401
    assert index.ask("GET", "/api/v1/studies", READER).status_code == 200
    assert "The file of keys can't be used" in index.log
    assert KEY not in index.log


def test_a_search_is_csv_for_who_may(index: Index) -> None:
    fill(index)
    index.post([study(number, patient_name="=1+1", patient_id="9") for number in range(10, 710)])
    answer = index.ask("POST", "/api/v1/search.csv", READER, json={"center": "000"})
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))
    assert len(rows) == 702
    assert {row["patient_name"] for row in rows} == {"PEÑA^JOSÉ", "SOTO^ANA MARÍA", "'=1+1"}
    assert rows[-1]["study_iuid"] == "1.2.840.1"
    # All of them are recorded.
    assert index.rows("SELECT count(*) FROM audit") == [(2,)]
    allow(index)
    assert index.ask("POST", "/api/v1/search.csv", KEY, json={}).status_code == 403
    allow(index, exports=True, centers=["111"], names="initials")
    text = index.ask("POST", "/api/v1/search.csv", KEY, json={}).text
    assert len(text.splitlines()) == 2
    assert "PE" not in text
    assert index.ask("POST", "/api/v1/search.csv", WRITER, json={}).status_code == 403


def central_index(index: Index, *arguments: str, said: str = "") -> str:
    keys = str(index.directory / "keys.json")
    done = conftest.command(index.directory, "--keys", keys, *arguments, said=said)
    return done.stdout if done.returncode == 0 else done.stderr


def login(index: Index, **content: str) -> int:
    index.session.cookies.clear()
    return index.ask("POST", "/login", json=content).status_code


def test_people_log_in_with_a_name_and_a_password(index: Index) -> None:
    fill(index)
    password = "correct horse battery"
    central_index(index, "user", "add", "ana", "--center", "111", said=f"{password}\n{password}\n")
    kept = (index.directory / "keys.json").read_text()
    assert password not in kept
    assert login(index, name="ana", password=password) == 200
    answer = index.ask("POST", "/api/v1/search", json={})
    assert [one["study_pk"] for one in answer.json()["studies"]] == [3]
    assert login(index, name="ana", password="wrong") == 401
    assert login(index, name="eva", password=password) == 401
    assert login(index, key=password) == 401
    # What the file holds is no key.
    secret = json.loads(kept)["readers"]["ana"]["password"]
    assert secret.startswith("$argon2id$")
    assert index.ask("POST", "/api/v1/search", secret, json={}).status_code == 401
    assert login(index, key=secret) == 401
    assert login(index, name="ana", password=password) == 200
    assert "ana: centres 111; full names; without an end; no CSV\n" in central_index(index, "user", "list")
    assert central_index(index, "user", "disable", "ana") == "ana is out.\n"
    assert index.ask("POST", "/api/v1/search", json={}).status_code == 401
    assert "at least 12" in central_index(index, "user", "add", "eva", said="short\nshort\n")


def test_another_password_shows_nobody_more(index: Index) -> None:
    fill(index)
    first, second = "correct horse battery", "staple correct horse"
    central_index(
        index, "user", "add", "ana", "--center", "111", "--initials", "--until", str(date.today()),
        said=f"{first}\n{first}\n",
    )  # fmt: skip
    said = central_index(index, "user", "add", "ana", said=f"{second}\n{second}\n")
    assert f"ana may read: centres 111; initials; until {date.today()}; no CSV.\n" in said
    assert login(index, name="ana", password=first) == 401
    assert login(index, name="ana", password=second) == 200
    answer = index.ask("POST", "/api/v1/search", json={}).json()
    assert [(one["study_iuid"], one["patient_name"]) for one in answer["studies"]] == [("1.2.840.3", "P. J.")]
    # Who is out and comes back sees no more either.
    central_index(index, "user", "disable", "ana")
    assert login(index, name="ana", password=second) == 401
    central_index(index, "user", "add", "ana", said=f"{first}\n{first}\n")
    assert login(index, name="ana", password=first) == 200
    assert index.ask("POST", "/api/v1/search", json={}).json()["hits"] == 1
    # A key goes on to count beside a password.
    central_index(index, "user", "add", "radiology", said=f"{first}\n{first}\n")
    assert index.ask("GET", "/api/v1/studies", READER).json()["hits"] == 3


def test_a_program_that_reads_gets_a_key_and_another_one(index: Index) -> None:
    fill(index)

    def read(*keys: str) -> list[int]:
        return [index.ask("POST", "/api/v1/search", key, json={}).status_code for key in keys]

    first = central_index(index, "user", "key", "less", "--center", "111").strip()
    assert index.ask("POST", "/api/v1/search", first, json={}).json()["hits"] == 1
    second = central_index(index, "user", "key", "less").strip()
    assert read(first, second) == [200, 200]
    assert index.ask("POST", "/api/v1/search", second, json={}).json()["hits"] == 1
    assert central_index(index, "user", "retire-key", "less") == "Only the newer key of less counts.\n"
    assert read(first, second) == [401, 200]
    third = central_index(index, "user", "key", "radiology").strip()
    assert read(READER, third) == [200, 200]


def test_a_centre_gets_a_key_and_another_one(index: Index) -> None:
    mode = (index.directory / "keys.json").stat().st_mode
    first = central_index(index, "centre", "add", "222").strip()
    assert index.post(study(center="222"), key=first).status_code == 201
    second = central_index(index, "centre", "add", "222").strip()
    assert [index.post(study(center="222"), key=key).status_code for key in (first, second)] == [201, 201]
    third = central_index(index, "centre", "add", "222").strip()
    assert index.post(study(center="222"), key=first).status_code == 401
    assert index.post(study()).status_code == 201
    assert central_index(index, "centre", "list") == "000\n111\n222: two keys\n"
    assert central_index(index, "centre", "retire-key", "222") == "Only the newer key of 222 counts.\n"
    assert index.post(study(center="222"), key=second).status_code == 401
    assert central_index(index, "centre", "disable", "222") == "222 is out.\n"
    assert index.post(study(center="222"), key=third).status_code == 401
    assert central_index(index, "centre", "disable", "222") == "Error: 222 is out.\n"
    assert central_index(index, "centre", "disable", "333") == "Error: There is no 333.\n"
    assert central_index(index, "centre", "list") == "000\n111\n222: out\n"
    assert (index.directory / "keys.json").stat().st_mode == mode


@pytest.mark.parametrize(
    ("believed", "said", "address"),
    [
        (None, "10.9.9.9", "10.9.9.9"),
        # What the proxy overwrote or added comes last.
        (None, "10.9.9.9, 10.8.8.8", "10.8.8.8"),
        ("", "10.9.9.9", "127.0.0.1"),
        ("10.0.0.5", "10.9.9.9", "127.0.0.1"),
    ],
)
def test_whose_word_for_an_address_counts(
    make_index: MakeIndex, believed: str | None, said: str, address: str
) -> None:
    index = make_index()
    if believed is not None:
        index.options["FORWARDED_ALLOW_IPS"] = believed
    index.start()
    answer = index.ask("POST", "/api/v1/search", READER, json={}, headers={"X-Forwarded-For": said})
    assert answer.status_code == 200
    assert index.rows("SELECT address FROM audit") == [(address,)]

"""One person, however centres write an id; and the way to the images."""

from __future__ import annotations

import time
from typing import Any

import pytest

from central_index.persons import IdRule, UnknownRule, hidden, names_differ
from central_index.words import id_key, tokens_of, words_of
from tests.central.conftest import KEYS, READER, WRITER, Index, MakeIndex, study
from tests.central.postgres import Cluster


@pytest.fixture
def index(engine: str, make_index: MakeIndex, request: pytest.FixtureRequest) -> Index:
    cluster: Cluster | None = request.getfixturevalue("cluster") if engine == "postgresql" else None
    one = make_index(cluster)
    one.options["CENTRAL_ID_RULE"] = "cl.rut"
    one.start()
    return one


def search(index: Index, **filters: Any) -> dict[str, Any]:
    answer = index.ask("POST", "/api/v1/search", READER, json=filters)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_an_id_is_found_however_it_is_written(index: Index) -> None:
    written = ["12.345.678-5", "12345678-5", "012345678-5", "123456785", " 12345678/5"]
    index.post([study(number, patient_id=one) for number, one in enumerate(written, 1)])
    index.post(study(9, center="111", patient_id="12345678-5"), key=KEYS["centers"]["111"])
    index.post(study(7, patient_id="12345678-4"))
    for one in written:
        found = search(index, patient_id=one)
        assert sorted(held["study_pk"] for held in found["studies"]) == [1, 2, 3, 4, 5, 9]
        assert (found["one_person"], found["names_differ"]) == (True, False)
    # As it was sent is as it is held.
    assert index.studies(study_iuid="1.2.840.1")[0]["patient_id"] == "12.345.678-5"
    index.execute("UPDATE studies SET patient_id = '12.531.909-2' WHERE study_pk = 1")
    assert [held["study_pk"] for held in search(index, patient_id="125319092")["studies"]] == [1]
    # Who looks for words is told what they are.
    assert search(index, patient=" 123456785")["patient_is_id"] is True
    assert "patient_is_id" not in search(index, patient="123456784")


def test_an_id_of_the_right_form_is_found_however_it_is_written(index: Index) -> None:
    """Its check digit is wrong, so nobody says that it is one person."""
    written = ["26.267.267-K", "26267267-k", "026267267K"]
    index.post([study(number, patient_id=one) for number, one in enumerate(written, 1)])
    for one in written:
        found = search(index, patient_id=one)
        assert sorted(held["study_pk"] for held in found["studies"]) == [1, 2, 3]
        assert found["one_person"] is False
        assert not any(held["valid_id"] for held in found["studies"])


def test_an_id_of_another_form_is_only_itself(index: Index) -> None:
    """77 is another person in each hospital."""
    written = ["77", "7-7", "0077", "1234567", "1.234.567", "0", "00", "-"]
    index.post(
        [study(number, patient_id=one, patient_name=f"A{number}^B") for number, one in enumerate(written, 1)]
    )
    index.post(study(9, center="111", patient_id="77", patient_name="MUNOZ^LUIS"), key=KEYS["centers"]["111"])
    index.post(study(10, patient_id="12345678-5"))
    for number, one in enumerate(written, 1):
        found = search(index, patient_id=one)
        assert [held["study_pk"] for held in found["studies"]] == ([9, 1] if one == "77" else [number])
        assert (found["one_person"], found["names_differ"]) == (False, one == "77")
        assert not any(held["valid_id"] for held in found["studies"])
    assert {held["study_pk"] for held in search(index)["studies"] if held["valid_id"]} == {10}
    assert {held["study_pk"] for held in index.studies() if held["valid_id"]} == {10}


def test_without_a_rule_no_id_is_anybodys(
    engine: str, make_index: MakeIndex, request: pytest.FixtureRequest
) -> None:
    index = make_index(request.getfixturevalue("cluster") if engine == "postgresql" else None)
    index.start()
    index.post(
        [study(1, patient_id="12.345.678-5"), study(2, patient_id="12345678-5", patient_name="SOTO^ANA")]
    )
    index.post(study(3, center="111", patient_id="12345678-5"), key=KEYS["centers"]["111"])
    found = search(index, patient_id="12345678-5")
    assert [held["study_pk"] for held in found["studies"]] == [3, 2]
    assert (found["one_person"], found["names_differ"]) == (False, True)
    assert [held["valid_id"] for held in found["studies"]] == [False, False]


def test_names_are_looked_at_beyond_the_page_that_is_asked_for(index: Index) -> None:
    index.post([study(number, patient_id="12.345.678-5") for number in range(1, 501)])
    index.post([study(number, patient_id="12345678-5", study_modality="US") for number in range(501, 521)])
    assert search(index, patient_id="123456785", limit=10)["names_differ"] is False
    oldest = study(
        600, patient_id="12345678-5", patient_name="KRAUSE^OTTO", study_datetime="2001-03-05 10:00:00"
    )
    index.post(oldest)
    first = search(index, patient_id="123456785", limit=10)
    assert first["names_differ"] is True
    for more in ({"after": first["next"]}, {"modality": "US"}, {"from": "2026-01-01", "limit": 500}):
        assert search(index, patient_id="123456785", **more)["names_differ"] is True
    # A reader who doesn't see that study doesn't learn of it.
    index.post({**oldest, "center": "111"}, key=KEYS["centers"]["111"])
    index.ask("DELETE", "/api/v1/register/1.2.840.600", WRITER)
    index.write_keys(
        {**KEYS, "readers": {**KEYS["readers"], "own": {"keys": ["key-of-own-000"], "centers": ["000"]}}}
    )
    for key, differ in ((READER, True), ("key-of-own-000", False)):
        answer = index.ask("POST", "/api/v1/search", key, json={"patient_id": "123456785"})
        assert answer.json()["names_differ"] is differ


def test_names_that_differ_much_are_said(index: Index) -> None:
    index.post(
        [study(1, patient_id="12345678-5"), study(2, patient_id="12.345.678-5", patient_name="PENA SOTO^J")]
    )
    assert search(index, patient_id="123456785")["names_differ"] is False
    index.post(study(3, patient_id="12.345.678-5", patient_name="ROJAS^EVA"))
    assert search(index, patient_id="123456785")["names_differ"] is True


def test_an_accession_number_is_found(index: Index) -> None:
    index.post(
        [study(1, accession_number="A-1"), study(2, accession_number="A-2"), study(3, accession_number=1)]
    )
    assert [held["study_pk"] for held in search(index, accession_number="A-1")["studies"]] == [1]
    assert search(index, accession_number="A")["studies"] == []


def test_a_centre_may_have_a_viewer(index: Index) -> None:
    viewer = "https://pacs.example/viewer?StudyInstanceUIDs={study_iuid}&x=1"
    centers = {"000": {"keys": [KEYS["centers"]["000"]], "viewer": viewer}, "111": KEYS["centers"]["111"]}
    index.write_keys({**KEYS, "centers": centers})
    index.post([study(1), study(2, study_iuid="1.2&<>")])
    index.post(study(3, center="111"), key=KEYS["centers"]["111"])
    assert {held["study_pk"]: held["viewer"] for held in search(index)["studies"]} == {
        1: "https://pacs.example/viewer?StudyInstanceUIDs=1.2.840.1&x=1",
        2: "https://pacs.example/viewer?StudyInstanceUIDs=1.2%26%3C%3E&x=1",
        3: None,
    }


@pytest.mark.parametrize("rule", ["cl", "cl.", "xx.yy", "cl.nothing", "os.path", ""])
def test_a_rule_that_isnt_known_is_said(rule: str) -> None:
    with pytest.raises(UnknownRule, match="There is no rule"):
        IdRule(rule)


#: Numbers that the modules of python-stdnum have as examples, and those with zeros at their front; then what is none.
VALID = {
    "cl.rut": ["76086428-5", "12.531.909-2", "012531909-2", "12531909/2", "26.267.262-k", "026267262K"],
    "cl.run": ["12.531.909-2"],
    "es.dni": ["54362315-K", "54.362.315-K", "01234567L", "01234567-L", "1234567-L", "1.234.567-l", "00.000.023-T"],
    "es.nif": ["54362315K", "01234567L", "1234567L", "X-5253868-R", "M-1234567-L", "00000023T"],
    "es.nie": ["x-2482300w", "X2482300W", "X-2.482.300-W"],
    "br.cpf": ["390.533.447-05", "39053344705", "012.345.678-90", "12345678-90", "12345678909", "012.345.678-90"],
    "ec.ci": ["171430710-3", "0602910945", "060291094-5", "602910945"],
    "do.cedula": ["00113918205", "001-1391820-5", "113918205", "22400022111"],
    "pl.pesel": ["44051401359", "02070803628", "2070803628"],
    "dk.cpr": ["211062-5629", "2110625629", "070761-4285", "0707614285", "707614285"],
    "fi.hetu": ["131052-308T", "131052a308t"],
    "us.ssn": ["536-90-4399", "536904399", "078-05-1121", "078051121", "78051121"],
    "uy.rut": ["21-100342-001-7", "211003420017"],
    "pe.cui": ["10117410-2", "10117410"],
    "mx.curp": ["BOXW310820HNERXN09"],
    "fr.nir": ["2 95 10 99 126 111 93"],
}  # fmt: skip
WRONG = {
    "cl.rut": ["77", "7-7", "", "-", "0", "12531909-3", "76086A28-5", "1-9", "1253190", "12531909-2-1", "1" * 41],
    "es.dni": ["54362315Z", "54362315", "01234567K", "23T", "4567L"],
    "br.cpf": ["390.533.447-06", "77"],
    "ec.ci": ["1714307104", "77"],
    "pl.pesel": ["44051401358", "02381307589", "3628"],
    "fi.hetu": ["131052-308U", "310252-308Y"],
    "us.ssn": ["666-00-0000", "051121"],
    # On these the library raises something else.
    "pt.cc": ["\u06638K\u0663"],
    "si.maticna": ["068/ 35\nZ"],
}  # fmt: skip


@pytest.mark.parametrize("rule", sorted({*VALID, *WRONG}))
def test_an_id_is_valid_however_it_is_written(rule: str) -> None:
    known = IdRule(rule)
    assert [one for one in VALID.get(rule, []) if not known.is_valid(one)] == []
    assert [one for one in WRONG.get(rule, []) if known.is_valid(one)] == []
    assert [one for one in VALID.get(rule, []) if not known.has_form(one)] == []


def test_which_ids_have_the_form_of_a_rule() -> None:
    known = IdRule("cl.rut")
    assert all(map(known.has_form, ["26.267.267-K", "026267267k", "12531909-3"]))
    # A hospital's own: with zeros put back it would have the form by chance.
    assert not any(
        map(known.has_form, ["77", "7-7", "0099", "1234567", "", "-", "K", "76086A28-5", "1" * 41])
    )


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [
        ("PEÑA^JOSÉ", "Jose Pena", False),
        ("PEÑA^JOSÉ", "PEÑA^JOSÉ LUIS", False),
        ("PEÑA^JOSÉ", "PENA SOTO^J", False),
        ("GONZALEZ^MARIA", "GONZALES^MARÍA", False),
        ("GONZALEZ^MARIA", "GONZALEZ^M.", False),
        ("MÜLLER^EVA", "MUELLER^EVA", False),
        ("SOTO", "SOTO^ANA", False),
        ("SOTO^MARI MA", "SOTO^MARIA MAX", False),
        ("MA^MARI", "MARIA^MAX", False),
        ("PEÑA^JOSÉ", None, False),
        ("PEÑA^JOSÉ", "^^^", False),
        ("", None, False),
        ("PEÑA^JOSÉ", "ROJAS^EVA", True),
        ("GONZALEZ^MARIA", "GONZALEZ^PEDRO", True),
        ("SOTO^MARIA", "ROJAS^MARIA", True),
        # Married perhaps: a warning is a question.
        ("SOTO^ANA", "ROJAS^ANA", True),
        ("SOTO^ANA", "ROJAS DE SOTO^ANA", False),
        ("SOTO", "ROJAS^ANA", True),
        ("DE LA CRUZ^ANA", "DE LA FUENTE^PEDRO", True),
        ("DE LA CRUZ^ANA", "CRUZ^ANA", False),
        # One word is common to one word only.
        ("ANA^ANA MARIA", "ANA^PAULA", True),
    ],
)
def test_names_that_differ_much(one: str | None, other: str | None, differ: bool) -> None:
    assert names_differ([one, other]) is differ
    assert names_differ([other, one, one]) is differ


def test_any_two_names_may_differ() -> None:
    assert names_differ(["PEÑA^JOSÉ", "PEÑA^JOSÉ LUIS", "LUIS^JOSÉ", "PEÑA^EVA"])
    # Nobody has so many. It is said at once.
    names = ["^".join(f"{letter * 16}{number}" for letter in "abcdefgh") for number in range(2_000)]
    began = time.monotonic()
    assert names_differ(names)
    assert not names_differ(names[:20])
    assert time.monotonic() - began < 2


def test_the_parts_of_it() -> None:
    assert {id_key(one) for one in ("26.267.267-K", "26267267-k", "026267267K")} == {"26267267K"}
    assert words_of("PEÑA  D'ANGELO^José-María") == ["pena", "d", "angelo", "jose", "maria"]
    assert hidden({**study(), "note": "PEÑA"}, b"x").keys() & study().keys() < study().keys()


def test_no_word_is_longer_than_postgresql_keeps() -> None:
    # One character that is six, in letters of three bytes; and what takes four bytes.
    long = {"patient_name": "㌕" * 250, "patient_id": "𠀀" * 250, "study_modality": "ΐ" * 250}
    tokens = tokens_of({**long, "center": "000", "accession_number": "𠀀" * 1_000})
    assert len(tokens) == 5  # the accession number isn't one that can be looked for
    assert max(len(token.encode()) for token in tokens) <= 2_046

"""The page in a real browser (headless Chromium, where there is one): logging in, looking for studies, the centres."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import central_index
from tests.central.conftest import KEYS, READER, Index, MakeIndex, study
from tests.central.test_reading import LITTLE_CSV
from tests.central.test_reports import report
from tests.indexer import wait_until
from tests.monitor.keyboard import Keyboard, open_page
from tests.monitor.test_browser import headless, in_a_browser

pytestmark = in_a_browser


@pytest.fixture(scope="module")
def engine() -> str:
    return "sqlite"


@pytest.fixture(scope="module")
def _index_with_a_rule(_make_indexes: MakeIndex) -> Index:
    one = _make_indexes()
    one.options["CENTRAL_ID_RULE"] = "cl.rut"
    one.program = ("-c", LITTLE_CSV)
    return one


@pytest.fixture
def index(_index_with_a_rule: Index) -> Index:
    _index_with_a_rule.empty()
    return _index_with_a_rule


@pytest.fixture
def page(index: Index, tmp_path: Path) -> Iterator[Keyboard]:
    """Logged in, in English."""
    index.post([study(1), study(2, patient_name="<b>SOTO</b>^ANA", patient_id="77", study_modality="US")])
    index.post(study(3, center="111"), key=KEYS["centers"]["111"])
    last_pass = {
        "at": "2026-11-28T01:00:00Z",
        "compared": 900,
        "missing": 0,
        "stale": 1,
        "extra": 0,
        "kept": 0,
    }
    content = report(
        state="failed", problems=["held: <i>the key</i> is refused"], waiting=12, last_pass=last_pass
    )
    index.ask("POST", "/api/v1/register/report", KEYS["centers"]["000"], json=content)
    with open_page([*headless(tmp_path), "--lang=en", "--window-size=1200,800"], index.url) as one:
        wait_until(lambda: one.value("!document.getElementById('login').hidden") is True, 20, "no login")
        one.value("document.getElementById('key').focus()")
        one.value(f"document.getElementById('key').value = {json.dumps(READER)}")
        one.press("Enter")
        wait_until(lambda: rows(one, "rows") == 3, 20, "no studies")
        yield one


def rows(page: Keyboard, table: str) -> int:
    return int(page.value(f"document.querySelectorAll('#{table} tr').length"))


def text(page: Keyboard, selector: str) -> str:
    return str(page.value(f"document.querySelector({json.dumps(selector)}).innerText"))


def screenshot(page: Keyboard) -> bytes:
    """PNG."""
    return base64.b64decode(page._call("Page.captureScreenshot", format="png")["data"])


def test_studies_are_found(page: Keyboard) -> None:
    assert "PEÑA, JOSÉ" in text(page, "#rows")
    # Markup of a name is text.
    assert page.value("document.querySelectorAll('#rows b').length") == 0
    page.value("document.getElementById('patient').value = 'pena'")
    page.value("document.querySelector('#search button').click()")
    wait_until(lambda: rows(page, "rows") == 2, 10, "the search finds something else")
    assert text(page, "#hits") == "2 found"
    # What was looked for is in no address.
    assert page.value("location.href").count("pena") == 0
    page.value("document.getElementById('from').value = '2026-03-02'")
    page.value("document.getElementById('to').value = '2026-03-01'")
    page.value("document.querySelector('#search button').click()")
    wait_until(lambda: text(page, "#reversed") == "The last day is before the first.", 10, "not said")


def test_a_study_tells_all_by_the_keyboard_alone(page: Keyboard) -> None:
    page.value("document.querySelector('#rows tr button').focus()")
    page.press("Enter")
    wait_until(lambda: page.value("document.getElementById('detail').open") is True, 10, "it doesn't open")
    said = text(page, "#detail dl")
    for one in ("PEÑA, JOSÉ", "26267267-K", "CT THORAX", "412", "Study UID", "1.2.840.3", "111"):
        assert one in said
    page.press("Enter")
    wait_until(lambda: page.value("document.getElementById('detail').open") is False, 10, "it doesn't close")
    wait_until(lambda: text(page, "#detail dl") == "", 10, "something of a patient stays behind")


def test_what_arrives_takes_the_focus_from_nothing(page: Keyboard, index: Index) -> None:
    page.value("window.held = document.querySelector('#rows tr:last-child button'); window.held.focus()")
    index.post(study(4))
    wait_until(lambda: rows(page, "rows") == 4, 15, "the study doesn't come")
    assert page.value("window.held.isConnected") is False
    page.press("Enter")
    wait_until(lambda: page.value("document.getElementById('detail').open") is True, 10, "the focus is lost")
    assert (
        page.value("[...document.querySelectorAll('#detail dd')].some(e => e.textContent === '1.2.840.1')")
        is True
    )


def test_columns_sort_what_is_shown(page: Keyboard) -> None:
    names = "[...document.querySelectorAll('#rows td:nth-child(3)')].map(e => e.textContent.slice(0, 4))"
    assert page.value(names) == ["PEÑA", "<b>S", "PEÑA"]
    marked = "[...document.querySelectorAll('#found th[aria-sort]')].map(e => e.innerText + e.getAttribute('aria-sort'))"
    assert page.value(marked) == ["Study datedescending"], "as they come from the index"
    button = "document.querySelector('[data-sort=name]')"

    def is_sorted(said: str | None) -> bool:
        return bool(page.value(f"{button}.closest('th').getAttribute('aria-sort')") == said)

    for expected, said in (
        (["<b>S", "PEÑA", "PEÑA"], "ascending"),
        (["PEÑA", "PEÑA", "<b>S"], "descending"),
        (["PEÑA", "<b>S", "PEÑA"], None),
    ):
        page.value(f"{button}.click()")
        wait_until(partial(is_sorted, said), 10, "unsorted")
        assert page.value(names) == expected


def test_the_mark_says_how_they_are_in_order(page: Keyboard, index: Index) -> None:
    """Arrived last, and the oldest."""
    index.post(
        [study(number, study_datetime=f"2020-01-01 10:{number % 60:02}:00") for number in range(10, 70)]
    )
    wait_until(lambda: rows(page, "rows") == 50, 15, "no page")
    marked = "[...document.querySelectorAll('#found th[aria-sort]')].map(e => [e.innerText, e.getAttribute('aria-sort')])"
    dates = "[...document.querySelectorAll('#rows td:nth-child(5)')].map(e => e.innerText)"
    page.value("document.getElementById('more').click()")
    wait_until(lambda: rows(page, "rows") == 63, 10, "no further page")
    for said in ("descending", "ascending", "descending", "ascending"):
        wait_until(lambda said=said: page.value(marked) == [["Study date", said]], 10, "another mark")  # type: ignore[misc]
        assert page.value(dates) == sorted(page.value(dates), reverse=said == "descending")
        page.value("document.querySelector('[data-sort=date]').click()")
    page.value("location.hash = '#studies?sort=-arrived'")
    wait_until(lambda: page.value(marked) == [["Arrived", "descending"]], 10, "another mark")
    page.value("location.hash = '#studies?sort=nothing'")
    wait_until(lambda: page.value(marked) == [["Study date", "descending"]], 10, "another mark")


def look_for(page: Keyboard, kind: str, words: str) -> None:
    page.value(f"document.getElementById('kind').value = {json.dumps(kind)}")
    page.value("document.getElementById('kind').dispatchEvent(new Event('change'))")
    page.value(f"document.getElementById('patient').value = {json.dumps(words)}")
    page.value("document.getElementById('search').requestSubmit()")


def test_what_somebody_types_is_found(page: Keyboard, index: Index) -> None:
    written = ["12.345.678-5", "12345678-5", "012345678-5"]
    index.post(
        [
            study(number, patient_id=one, accession_number=f"ACC-{number}")
            for number, one in enumerate(written, 10)
        ]
    )
    wait_until(lambda: rows(page, "rows") == 6, 15, "no studies")
    for kind, typed, number in (
        *(("patient_id", one, 3) for one in (*written, " 123456785 ")),
        ("accession_number", " ACC-11", 1),
        ("study_iuid", "1.2.840.12", 1),
        ("patient", "12.345.678-5", 1),
        ("patient_id", "77", 1),
    ):
        look_for(page, kind, typed)
        wait_until(lambda number=number: rows(page, "rows") == number, 10, f"{kind} {typed}")  # type: ignore[misc]
        look_for(page, "patient", "nobody")
        wait_until(lambda: rows(page, "rows") == 0, 10, "not empty")
    # By the keyboard alone.
    page.value("document.getElementById('kind').focus()")
    page.press("Tab")
    assert page.value("document.activeElement.id") == "patient"
    # It is in no address, which holds the rest of the search.
    page.value("document.getElementById('from').value = '2026-03-01'")
    look_for(page, "patient_id", "123456785")
    wait_until(lambda: rows(page, "rows") == 3, 10, "not found")
    assert page.value("location.hash") == "#studies?from=2026-03-01"
    assert text(page, "#person") == "One person, by a valid id."
    assert page.value("document.getElementById('patient').getAttribute('aria-label')") == "Patient id"
    page.value("window.before = true; location.reload()")
    wait_until(lambda: page.value("window.before") is None and rows(page, "rows") == 6, 20, "another search")
    assert page.value(
        "[document.getElementById('kind').value, document.getElementById('patient').value]"
    ) == ["patient", ""]


def test_words_that_are_something_else_are_offered_as_that(page: Keyboard, index: Index) -> None:
    index.post(
        [study(10, patient_id="12.345.678-5", accession_number="ACC-1"), study(11, patient_id="12345678-5")]
    )
    wait_until(lambda: rows(page, "rows") == 5, 15, "no studies")
    offered = "[...document.querySelectorAll('#as button')].filter(e => e.offsetParent).map(e => e.innerText)"
    everything = ["Patient id", "Accession number", "Study UID"]
    for typed, offers, found in (
        ("12345678-5", ["Patient id"], 2),
        ("123456785", ["Patient id"], 2),
        ("1.2.840.10", ["Study UID"], 1),
        ("ACC-1", ["Patient id", "Accession number", "Study UID"], 1),
    ):
        look_for(page, "patient", typed)
        wait_until(lambda offers=offers: page.value(offered) == offers, 10, f"{typed} isn't offered")  # type: ignore[misc]
        # By the keyboard alone.
        wanted = offers[-1] if offers != everything else "Accession number"
        page.value(
            f"[...document.querySelectorAll('#as button')].find(e => e.innerText === '{wanted}').focus()"
        )
        page.press("Enter")
        wait_until(lambda found=found: rows(page, "rows") == found, 10, f"{typed} isn't found")  # type: ignore[misc]
        assert page.value(offered) == []
        assert page.value("document.getElementById('kind').selectedOptions[0].innerText") == wanted
        assert page.value("document.activeElement.id") == "patient"
    look_for(page, "patient_id", "Pena")
    others = ["Name or id", "Accession number", "Study UID"]
    wait_until(lambda: page.value(offered) == others, 10, "nothing else is offered")
    page.value("document.querySelector('#as button').click()")
    wait_until(lambda: rows(page, "rows") == 4, 10, "not found")
    assert page.value(offered) == []


def test_an_address_holds_the_search_and_nothing_of_a_patient(page: Keyboard, index: Index) -> None:
    choices = "[...document.querySelectorAll('#center option')].map(e => e.value)"
    wait_until(lambda: page.value(choices) == ["", "000", "111"], 10, "no centres to choose")
    assert page.value("document.querySelectorAll('#modalities option').length") > 10
    page.value("document.getElementById('patient').value = 'pena'")
    page.value("document.getElementById('center').value = '000'")
    page.value("document.getElementById('from').value = '2026-03-01'")
    page.value("document.querySelector('#search button').click()")
    wait_until(lambda: rows(page, "rows") == 1, 10, "not found")
    assert page.value("location.hash") == "#studies?from=2026-03-01&center=000"
    # Who gets it sees the same search, but for the patient.
    page.value("window.before = true; location.reload()")
    wait_until(lambda: page.value("window.before") is None and rows(page, "rows") == 2, 20, "another search")
    assert page.value("['patient', 'center', 'from'].map(id => document.getElementById(id).value)") == [
        "",
        "000",
        "2026-03-01",
    ]
    page.value("history.back()")
    wait_until(lambda: rows(page, "rows") == 3, 10, "no way back")
    assert page.value("document.getElementById('center').value") == ""


def test_an_id_leads_to_all_studies_of_the_person(page: Keyboard, index: Index) -> None:
    """Only one that is valid by the rule."""
    index.post([study(10, patient_id="12.345.678-5"), study(11, patient_id="7-7", patient_name="ROJAS^EVA")])
    index.post(study(11, center="111", patient_id="12345678-5"), key=KEYS["centers"]["111"])
    wait_until(lambda: rows(page, "rows") == 6, 15, "no studies")
    links = "[...document.querySelectorAll('#rows td:nth-child(4) button')].map(e => e.innerText)"
    assert sorted(page.value(links)) == ["12.345.678-5", "12345678-5"]
    # So it is for all about a study.
    for hidden in (True, False):
        said = "ROJAS" if hidden else "12.345"
        line = f"[...document.querySelectorAll('#rows tr')].find(e => e.innerText.includes('{said}'))"
        page.value(f"{line}.querySelector('button').click()")
        wait_until(
            lambda: page.value("document.getElementById('detail').open") is True, 10, "it doesn't open"
        )
        assert page.value("document.getElementById('detail-person').hidden") is hidden
        page.value("document.getElementById('detail').close()")
    page.value("document.querySelector('#rows td:nth-child(4) button').click()")
    wait_until(lambda: rows(page, "rows") == 2, 10, "not this person's")
    assert page.value("document.querySelectorAll('#rows a').length") == 0
    # What is looked for can be seen, and changed.
    assert page.value("document.getElementById('kind').value") == "patient_id"
    assert text(page, "#person") == "One person, by a valid id."
    index.post(study(12, patient_id="12345678-5", patient_name="SOTO^ANA"))
    wait_until(
        lambda: text(page, "#person") == "Names differ much: this id may be two people's.", 15, "not said"
    )
    look_for(page, "patient_id", "77")
    wait_until(
        lambda: text(page, "#person").startswith("Nothing says that this id is one person's"), 10, "not said"
    )


def test_a_viewer_is_a_link(page: Keyboard, index: Index) -> None:
    viewer = "https://pacs.example/viewer?StudyInstanceUIDs={study_iuid}"
    centers = {**KEYS["centers"], "111": {"keys": [KEYS["centers"]["111"]], "viewer": viewer}}
    index.write_keys({**KEYS, "centers": centers})
    index.post(study(4))
    link = "document.querySelector('#rows a')"
    wait_until(lambda: page.value(f"{link} !== null") is True, 15, "no link")
    assert page.value(f"{link}.href") == "https://pacs.example/viewer?StudyInstanceUIDs=1.2.840.3"
    assert page.value(f"{link}.rel") == "noopener noreferrer"


def test_new_studies_come_by_themselves(page: Keyboard, index: Index) -> None:
    index.post(study(4))
    wait_until(lambda: rows(page, "rows") == 4, 15, "the study doesn't come")


def test_the_centres_have_a_view_of_their_own(page: Keyboard) -> None:
    page.value("document.getElementById('to-centers').click()")
    wait_until(lambda: rows(page, "center-rows") == 2, 10, "no centres")
    assert page.value("document.getElementById('studies').hidden") is True
    said = text(page, "#center-rows tr")
    assert "failed" in said
    assert "held: <i>the key</i> is refused" in said
    # When the last comparison was, and what it found.
    assert re.search(r"Nov 2[78], 2026, \d+:00.[AP]M: 0 missing, 1 stale, 0 extra of 900", said)
    # The address leads there again.
    assert page.value("location.hash") == "#centers"
    page.value("window.before = true; location.reload()")
    wait_until(lambda: page.value("window.before") is None, 10, "it isn't loaded again")
    wait_until(lambda: rows(page, "center-rows") == 2, 10, "not after a reload")
    page.value("document.getElementById('to-studies').click()")
    wait_until(lambda: page.value("document.getElementById('studies').hidden") is False, 10, "no way back")


def test_the_language_is_a_choice_and_stays_one(page: Keyboard) -> None:
    assert text(page, "h1") == "Central index"
    page.value("document.getElementById('language').click()")
    wait_until(lambda: text(page, "h1") == "Índice central" and rows(page, "rows") == 3, 20, "no Spanish")
    assert page.value("document.documentElement.lang") == "es"
    assert text(page, "#total") == "3 estudios"
    texts = "[...document.querySelectorAll('[data-text]')].map(e => e.textContent)"
    english = [one for one in page.value(texts) if one in ("State", "Waiting", "Today", "Studies")]
    assert english == []


def test_on_a_phone_a_study_is_a_card(page: Keyboard) -> None:
    page._call("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=2, mobile=True)
    wait_until(
        lambda: page.value("getComputedStyle(document.querySelector('#rows tr')).display") == "block",
        10,
        "no card",
    )
    assert page.value("document.documentElement.scrollWidth <= 390") is True
    label = "getComputedStyle(document.querySelector('#rows td:nth-child(3)'), '::before').content"
    assert page.value(label) == '"Patient"'
    # Sorting is where a thumb gets at it.
    page.value("document.querySelector('[data-sort=name]').scrollIntoView({block: 'center'})")
    place = "(({left, right, top, bottom, height}) => [left >= 0 && right <= 390 && top >= 0 && bottom <= 800, height])"
    for column in page.value("[...document.querySelectorAll('[data-sort]')].map(e => e.dataset.sort)"):
        inside, height = page.value(
            f"{place}(document.querySelector('[data-sort={column}]').getBoundingClientRect())"
        )
        assert inside, column
        assert height >= 24, column
    page.value("document.querySelector('[data-sort=name]').click()")
    wait_until(lambda: "SOTO" in text(page, "#rows tr"), 10, "unsorted")
    assert page.value("document.getElementById('kind').getBoundingClientRect().right <= 390") is True
    phone = screenshot(page)
    page._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert screenshot(page) != phone


def test_logging_out_shows_nothing_any_more(page: Keyboard) -> None:
    # An answer that is under way then comes afterwards.
    page.value(
        "(() => { const real = window.fetch; window.fetch = async (...a) => { const answer = await real(...a);"
        " if (String(a[0]).includes('search')) await new Promise((end) => setTimeout(end, 700)); return answer; };"
        " document.getElementById('search').requestSubmit(); })()"
    )
    page.value("document.getElementById('logout').click()")
    wait_until(lambda: page.value("!document.getElementById('login').hidden") is True, 10, "still in")
    time.sleep(1)
    assert page.value("document.getElementById('login').hidden") is False
    assert rows(page, "rows") == 0
    assert (
        page.value("document.getElementById('studies').hidden && document.getElementById('region').hidden")
        is True
    )


def test_refusals_are_said_in_spanish_and_nothing_stays_beneath(page: Keyboard, index: Index) -> None:
    page.value("document.getElementById('language').click()")
    wait_until(lambda: text(page, "h1") == "Índice central" and rows(page, "rows") == 3, 20, "no Spanish")
    own = {"keys": [READER], "centers": ["000"]}
    index.write_keys({**KEYS, "readers": {"radiology": own}})
    page.value("location.hash = '#studies?center=111'")
    wait_until(lambda: text(page, "#message") == "Este lector no ve ese centro.", 10, "not said")
    assert rows(page, "rows") == 0
    page.value("document.getElementById('csv').click()")
    wait_until(
        lambda: text(page, "#csv-message") == "Este lector no puede llevarse una búsqueda como CSV.",
        10,
        "not said",
    )
    page.value("location.hash = '#studies?from=never'")
    wait_until(lambda: text(page, "#message").startswith("El índice no entiende la búsqueda"), 10, "not said")
    page.value("location.hash = '#studies'")
    wait_until(lambda: rows(page, "rows") == 2 and text(page, "#message") == "", 10, "nothing any more")
    index.write_keys({**KEYS, "readers": {"radiology": {**own, "names": "initials"}}})
    look_for(page, "patient", "pena")
    said = "Este lector no ve nombres y no puede buscar a una persona."
    wait_until(lambda: text(page, "#message") == said, 10, "not said")
    assert rows(page, "rows") == 0
    assert text(page, "#hits") == ""
    index.write_keys(KEYS)
    look_for(page, "patient", "pena")
    wait_until(lambda: rows(page, "rows") == 2, 10, "not found")
    # Nothing is asked for then.
    page.value("document.getElementById('from').value = '2026-03-02'")
    page.value("document.getElementById('to').value = '2026-03-01'")
    page.value("document.getElementById('search').requestSubmit()")
    wait_until(lambda: rows(page, "rows") == 0, 10, "what was found before")
    index.post(study(4))
    time.sleep(1.5)
    assert rows(page, "rows") == 0


def test_a_csv_that_is_cut_says_so(page: Keyboard, index: Index) -> None:
    page.value("document.getElementById('csv').click()")
    time.sleep(1)
    assert text(page, "#csv-message") == ""
    index.post([study(number) for number in range(10, 1_010)])
    page.value("document.getElementById('csv').click()")
    said = "The CSV has only the first 1,000 studies: narrow the search."
    wait_until(lambda: text(page, "#csv-message") == said, 15, "not said")
    # Until the next search, whatever news come.
    index.post(study(2_000))
    time.sleep(2.5)
    assert text(page, "#csv-message") == said
    look_for(page, "patient", "pena")
    wait_until(lambda: text(page, "#csv-message") == "", 10, "still said")


def test_an_index_that_is_away_for_a_moment_leaves_what_is_shown_and_says_so(page: Keyboard) -> None:
    page.value(
        "(() => { window.real = window.fetch; window.fetch = async (...a) =>"
        ' String(a[0]).includes(\'search\') ? new Response(\'{"status": "Error", "reason": "away"}\', {status: 503})'
        " : window.real(...a); document.getElementById('search').requestSubmit(); })()"
    )
    wait_until(lambda: text(page, "#message") == "away", 10, "not said")
    assert rows(page, "rows") == 3
    assert page.value("getComputedStyle(document.getElementById('rows')).opacity") == "0.55"
    look_for(page, "patient", "pena")
    wait_until(lambda: rows(page, "rows") == 0, 10, "another search's studies")
    page.value("window.fetch = window.real")
    # It comes back by itself.
    wait_until(lambda: rows(page, "rows") == 2 and text(page, "#message") == "", 15, "still away")
    assert page.value("getComputedStyle(document.getElementById('rows')).opacity") == "1"


def test_a_login_while_the_index_is_away_isnt_a_wrong_key(page: Keyboard) -> None:
    page.value("document.getElementById('logout').click()")
    wait_until(lambda: page.value("!document.getElementById('login').hidden") is True, 10, "still in")
    page.value(
        'window.fetch = async () => new Response(\'{"status": "Error", "reason": "away"}\', {status: 503});'
        "document.getElementById('key').value = 'x'; document.getElementById('login').requestSubmit()"
    )
    wait_until(lambda: text(page, "#login-error") == "away", 10, "not said")


def test_every_refusal_of_a_search_has_its_spanish_sentence() -> None:
    package = Path(central_index.__file__).parent
    codes = re.findall(r'Refused\(\d+, "(\w+)"', (package / "reading.py").read_text())
    assert len(codes) == 3
    spanish = (package / "static/texts.js").read_text().rpartition("    refusals: {")[2].partition("},")[0]
    described = (Path(__file__).resolve().parents[2] / "docs/index-api.md").read_text()
    for code in codes:
        assert f"{code}: " in spanish
        assert f"`{code}`" in described

"""The page in a real browser (headless Chromium, where there is one): logging in, looking for studies, the centres."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.central.conftest import KEYS, READER, Index, study
from tests.central.test_reports import report
from tests.indexer import wait_until
from tests.monitor.keyboard import Keyboard, open_page
from tests.monitor.test_browser import headless, in_a_browser

pytestmark = in_a_browser


@pytest.fixture(scope="module")
def engine() -> str:
    return "sqlite"


@pytest.fixture
def page(index: Index, tmp_path: Path) -> Iterator[Keyboard]:
    """Logged in, in English."""
    index.post([study(1), study(2, patient_name="<b>SOTO</b>^ANA", patient_id="77", study_modality="US")])
    index.post(study(3, center="111"), key=KEYS["centers"]["111"])
    content = report(state="failed", problems=["held: <i>the key</i> is refused"], waiting=12)
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
    arrived = "document.querySelector('[data-sort=arrived]').closest('th').getAttribute('aria-sort')"
    assert page.value(arrived) == "descending", "as they come from the index"
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


def test_an_id_leads_to_all_studies_of_the_person(page: Keyboard) -> None:
    page.value("document.querySelector('#rows td:nth-child(4) button').click()")
    wait_until(lambda: rows(page, "rows") == 2, 10, "not this person's")
    assert text(page, "#rows td:nth-child(4)") == "26267267-K"
    assert page.value("document.querySelectorAll('#rows a').length") == 0


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

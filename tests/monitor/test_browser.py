"""The status page in a real browser (headless Chromium, where there is one): light, dark, Spanish, and renewing itself."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from cdc_indexer.flow.observer import Source
from cdc_indexer.flow.verdict import Gate
from cdc_indexer.monitor.report import Report
from cdc_indexer.monitor.texts import TEXTS
from tests.indexer import wait_until
from tests.monitor.conftest import Site, sample
from tests.monitor.keyboard import open_page

ROOT = Path(__file__).resolve().parent.parent.parent
CSS = (ROOT / "cdc_indexer/monitor/static/page.css").read_text()

BROWSER = next(
    filter(
        None, map(shutil.which, ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"))
    ),
    None,
)

in_a_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium here: tests/setup_servers.sh browser")


def headless(directory: Path) -> list[str]:
    """The browser's command line, with a profile of its own in ``directory``."""
    assert BROWSER is not None
    return [
        BROWSER,
        "--headless",
        "--no-sandbox",  # root has none
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={directory / 'profile'}",
    ]


def browse(url: str, directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The browser's DOM on stdout, what it complains of on stderr."""
    done = subprocess.run(
        [*headless(directory), "--hide-scrollbars", "--enable-logging=stderr", *options, url],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    complaints = [
        line for line in done.stderr.splitlines() if "CONSOLE" in line or "Content Security" in line
    ]
    assert complaints == []
    return done


@pytest.fixture
def busy(site: Site) -> Site:
    site.watch.source(Source.UP, "")
    site.watch.caught_up()
    for minutes in range(59, -1, -1):
        for _ in range(minutes % 7):
            site.watch._hour.add(time.monotonic() - 60 * minutes)
    site.watch.sampled(sample(parked=2, parked_reasons=(("rejected (status 422)", 2),)))
    return site


@in_a_browser
def test_it_is_drawn_in_the_light_and_in_the_dark(busy: Site, tmp_path: Path) -> None:
    shots = {}
    for scheme, number in (("dark", 0), ("light", 1)):
        path = tmp_path / f"{scheme}.png"
        browse(
            f"{busy.url}/?lang=es",
            tmp_path,
            f"--screenshot={path}",
            "--window-size=1000,1100",
            f"--blink-settings=preferredColorScheme={number}",
        )
        shots[scheme] = path.read_bytes()
    assert all(shot.startswith(b"\x89PNG") and len(shot) > 20_000 for shot in shots.values())
    assert shots["dark"] != shots["light"]


@in_a_browser
def test_it_renews_itself_and_says_when_nobody_answers(busy: Site, tmp_path: Path) -> None:
    """The answers are those of one page that stays open: fine, held, and then none."""
    report = busy.watch.report
    asked = []

    def answers() -> Report:
        asked.append(1)
        if len(asked) == 2:
            busy.watch.gate(Gate.AWAY, "The central index is away.")
        if len(asked) > 3:
            raise RuntimeError
        return report()

    busy.watch.report = answers  # type: ignore[method-assign]
    dom = browse(f"{busy.url}/", tmp_path, "--virtual-time-budget=12000", "--dump-dom").stdout
    assert len(asked) >= 2
    assert "The central index is away." in dom
    assert re.search(r'<p id="offline" role="alert" hidden', dom)
    assert '<section id="state" class="state failed"' in dom
    asked.clear()
    asked.extend([1] * 2)
    dom = browse(f"{busy.url}/", tmp_path, "--virtual-time-budget=12000", "--dump-dom").stdout
    assert re.search(r'<p id="offline" role="alert">' + re.escape(TEXTS["en"]["offline"]), dom)
    # Whatever the report's error, the service goes on.
    busy.watch.sampled(sample(parked=0))


@in_a_browser
def test_everything_is_reached_and_used_by_keyboard(busy: Site, tmp_path: Path) -> None:
    active = "document.activeElement.getAttribute('href') || document.activeElement.tagName"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    with open_page(headless(tmp_path), f"{busy.url}/?lang=es") as page:
        stops = []
        for _ in range(5):
            page.press("Tab")
            stops.append(page.value(active))
            assert page.value(outline) == "solid", stops
            if stops[-1] == "SUMMARY":
                page.press("Enter")
                assert page.value("document.querySelector('details').open")
        assert stops == ["?lang=en", "?lang=es", "SUMMARY", "/metrics", "/status.json"]
        page.press("Enter")
        wait_until(lambda: bool(page.value("location.pathname") == "/status.json"), what="the link's target")


# --- what needs no browser -------------------------------------------------------------------------------


def _luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    """WCAG 2.2, 1.4.3."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_everything_can_be_read(scheme: int) -> None:
    block = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)[scheme]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
    for text in ("text", "quiet", "link"):
        for ground in ("page", "card"):
            assert _contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for state in ("ok", "warning", "failed"):
        for text in (state, "text", "quiet"):
            assert _contrast(colours[text], colours[f"{state}-back"]) >= 4.5, (state, text)
    assert _contrast(colours["bar"], colours["card"]) >= 3

"""The search for secrets and patients finds them, in every form; that it is done after each test is tests/conftest.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.privacy import Privacy, privacy

ROOT = Path(__file__).resolve().parent.parent.parent

#: As a careless line would: it isn't a field of its own, so that no processor can know it.
CARELESS = """
import io, json, structlog, sys
from cdc_indexer.model.settings import LogSettings
from cdc_indexer.monitor import logs
logs.configure(LogSettings(format=sys.argv[1]), sys.stderr, secrets=["a-key-0123456789"])
structlog.get_logger("cdc_indexer").info("sent PEÑA^JOSÉ", patient_name="PEÑA^JOSÉ", note="a-key-0123456789")
"""


@pytest.mark.parametrize("format", ["json", "console"])
def test_a_name_that_is_logged_on_purpose_is_found_and_what_is_redacted_isnt(
    tmp_path: Path, format: str
) -> None:
    log = tmp_path / "log.txt"
    with log.open("wb") as file:
        subprocess.run(
            [sys.executable, "-c", CARELESS, format], stderr=file, check=True, cwd=ROOT, timeout=60
        )
    one = Privacy()
    one.add_secret("a-key-0123456789")
    one.add_file(log)
    found = one.found()
    # The event's text holds it; the field patient_name and the key were removed.
    assert len(found) == 2, found  # PEÑA^JOSÉ and PEÑA
    assert log.read_text().count("[removed]") == 2
    assert all("JOSÉ" not in line for line in found)
    assert one.found() == [], "what was searched isn't searched again"


@pytest.mark.parametrize(
    "written",
    [
        "NÚÑEZ^MARÍA".encode(),
        "NÚÑEZ^MARÍA".encode("latin1"),
        json.dumps({"event": "NÚÑEZ^MARÍA"}).encode(),
        ascii("NÚÑEZ^MARÍA").encode(),
        b'Traceback ...\nKeyError: "26267267-K"\n',
        b"X-Api-Key: my-own-key",
    ],
)
def test_every_form_is_found(written: bytes) -> None:
    one = Privacy()
    one.add_secret("my-own-key")
    one.add_text("a page", b"nothing here")
    assert one.found() == []
    one.add_text("a page", b"line 1\n" + written)
    assert one.found()


def test_a_file_that_grows_or_is_replaced_is_searched_again(tmp_path: Path) -> None:
    log, state = tmp_path / "log.txt", tmp_path / "status.json"
    one = Privacy()
    one.add_file(log)
    one.add_file(state)
    assert one.found() == []
    log.write_text("x" * 1000 + "26267")
    state.write_text("{}")
    assert one.found() == []
    with log.open("a") as file:
        file.write("267-K")
    state.write_text('{"name": "26267267-K"}')
    assert len(one.found()) == 2


def test_a_tests_own_patients_are_searched_for() -> None:
    one = Privacy()
    one.add_patient("SOTO^ANA LUISA")
    one.add_patient("a")
    one.add_text("a page", b"a SOTO^ANA LUISA")
    assert len(one.found()) == 1


def test_the_run_as_a_whole_is_searched() -> None:
    """What the conftest does after each test; were it taken out, this would be the one that says so."""
    privacy.add_text("on purpose", b"26267267-K")
    assert privacy.found()

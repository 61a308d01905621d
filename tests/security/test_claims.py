"""Every claim of SECURITY.md names a test that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent
CLAIMS = re.findall(r"`([a-z_/]+\.py)(?:::(\w+))?`", (TESTS.parent / "SECURITY.md").read_text())


def test_there_are_claims() -> None:
    assert len(CLAIMS) > 20


@pytest.mark.parametrize(("file", "test"), CLAIMS)
def test_a_named_test_is_there(file: str, test: str) -> None:
    assert f"\ndef {test}(" in (TESTS / file).read_text() if test else (TESTS / file).is_file()

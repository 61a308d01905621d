"""The scripts in extras/ are what their parts make, and name every column of a row."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from extras.sql.__main__ import SCRIPTS, made

EXTRAS = Path(__file__).resolve().parent.parent.parent / "extras"


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_is_committed_is_what_the_parts_make(name: str) -> None:
    assert (EXTRAS / name).read_text() == made(name), "run: python -m extras.sql"


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_row_names_all_columns(name: str) -> None:
    """With binlog_row_image = MINIMAL the binary log holds only the columns that an INSERT names."""
    text = made(name)
    table = text[text.index("CREATE TABLE study_service_new") :]
    columns = re.findall(r"^ +(\w+) +(?:BIGINT|VARCHAR|DATETIME|INT)", table, re.MULTILINE)
    inserts = re.findall(r"INSERT INTO study_service\w* \(([^)]*)\)", text)
    assert len(inserts) > 4
    for named in inserts:
        assert re.split(r",\s+", named) == columns[:15]

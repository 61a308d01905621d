"""One word for one thing: what compares archive and index is a comparison wherever a user reads of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdc_indexer.monitor.language import catalogue
from cdc_indexer.monitor.texts import TEXTS
from central_index.metrics import Metrics
from central_index.model import CenterReport
from central_index.overview import overview

ROOT = Path(__file__).resolve().parent.parent.parent
BOARDS = ("extras/grafana-dashboard.json", "extras/central/grafana-dashboard.json")
PAGE = ROOT / "extras/central/central_index/static/texts.js"
#: The names of commands, keys and metrics stay.
_ANOTHER_WORD = re.compile(r"reconciliation|conciliaci|pasada|\b(?:last|next|nightly) pass\b", re.IGNORECASE)
KINDS = ("missing", "stale", "extra")


def _shown(part: Any) -> Iterator[str]:
    if isinstance(part, list):
        for one in part:
            yield from _shown(one)
    elif isinstance(part, dict):
        for name, one in part.items():
            if name in ("title", "description") and isinstance(one, str):
                yield one
            yield from _shown(one)


def _helps() -> str:
    last_pass = {"at": "2026-11-28T01:00:00Z", "compared": 1, "missing": 0, "stale": 0, "extra": 0, "kept": 0}
    content = {"at": "2026-11-28T01:00:00Z", "state": "ok", "problems": [], "last_pass": last_pass}
    center = overview([], [CenterReport("0", 0.0, content)], {}, {}, {}, 1.0)
    said = Metrics().text(center, keys_usable=True).decode()
    return "\n".join(
        line.partition(" ")[2].partition(" ")[2] for line in said.splitlines() if "# HELP" in line
    )


def _told() -> Iterator[tuple[str, str]]:
    for board in BOARDS:
        yield board, "\n".join(_shown(json.loads((ROOT / board).read_text())))
    yield "metrics of the index", _helps()
    yield "page of the index", " ".join(re.findall(r'[`"](.*?)[`"]', PAGE.read_text()))
    yield (
        "status page",
        "\n".join(text for texts in TEXTS.values() for text in texts.values() if isinstance(text, str)),
    )
    for name in ("README.md", "README.es.md", "docs/operations.md", "docs/region.md"):
        prose = re.sub(r"```.*?```|`[^`]*`", "", (ROOT / name).read_text(), flags=re.DOTALL)
        yield name, prose


@pytest.mark.parametrize("where", [name for name, _ in _told()])
def test_a_comparison_has_one_name(where: str) -> None:
    told = dict(_told())[where]
    assert _ANOTHER_WORD.findall(told) == []


def test_what_it_found_has_one_name_in_spanish() -> None:
    line = PAGE.read_text().rpartition("    pass: (p) =>")[2].splitlines()[0]
    spanish = catalogue()
    words = [spanish[kind] for kind in KINDS]
    assert re.findall(r"(\w+): \$\{p\.(\w+)\}", line) == list(zip(words, KINDS, strict=True))

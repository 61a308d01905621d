"""Imports without what they bring along."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc_indexer.model.lean import later, without


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of one that can be imported."""
    (tmp_path / "brought_along.py").write_text("answer = 42")
    monkeypatch.syspath_prepend(tmp_path)
    yield "brought_along"
    sys.modules.pop("brought_along", None)


def test_a_module_that_is_left_out_is_there_afterwards(module: str) -> None:
    with without(module), pytest.raises(ImportError):
        importlib.import_module(module)
    assert importlib.import_module(module).answer == 42
    with without(module):
        assert importlib.import_module(module).answer == 42, "who has it keeps it"


def test_a_module_that_comes_later_comes_when_it_is_used(module: str) -> None:
    with later(module):
        seen = importlib.import_module(module)
    assert module not in sys.modules
    assert seen.answer == 42
    assert module in sys.modules
    with pytest.raises(AttributeError, match="question"):
        _ = seen.question
    with later(module):
        assert importlib.import_module(module) is sys.modules[module] is not seen, "who has it keeps it"

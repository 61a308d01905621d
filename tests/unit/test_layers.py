"""Which package may know which: arrows go down only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent.parent / "cdc_indexer"

#: A package, and those that its modules may import.
MAY_KNOW = {
    "source": {"source", "model"},
    "checks": {"checks", "source", "delivery", "state", "model"},
}


def known_to(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("cdc_indexer.")}
    return found


@pytest.mark.parametrize("package", MAY_KNOW)
def test_a_package_knows_only_those_below_it(package: str) -> None:
    for path in (PACKAGE / package).glob("*.py"):
        assert known_to(path) <= MAY_KNOW[package], path


def test_nobody_but_the_source_opens_a_session() -> None:
    """Nobody keeps settings or a connection of his own."""
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        if path.parent.name != "source":
            assert "import pymysql" not in text, path
            assert "source.connection" not in text, path
        elif path.name not in ("source.py", "connection.py"):
            assert "source.connection" not in text, path
        if path.name != "_driver.py" and path.parent.name == "source":
            for name in ("connection._sock", "._force_close", "._execute_command", "BinLogPacketWrapper"):
                assert name not in text, path

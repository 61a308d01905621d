"""Which package may know which: arrows go down only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent.parent / "cdc_indexer"

#: A package, and those that its modules may import.
MAY_KNOW = {
    "model": {"model"},
    "flow": {"flow", "model"},
    "source": {"source", "model"},
    "delivery": {"delivery", "model"},
    "state": {"state", "model"},
    "checks": {"checks", "source", "delivery", "state", "model"},
    "monitor": {"monitor", "flow", "source", "state", "model", "__version__"},
    "jobs": {"jobs", "flow", "source", "delivery", "state", "model", "__version__"},
}

#: A module that is longer has to be two.
LINES = 400


def known_to(path: Path) -> set[str]:
    """What it imports, for types alone as well."""
    found = set()
    for part in ast.walk(ast.parse(path.read_text())):
        names = [part.module or ""] if isinstance(part, ast.ImportFrom) else []
        if isinstance(part, ast.Import):
            names = [alias.name for alias in part.names]
        found |= {name.split(".")[1] for name in names if name.startswith("cdc_indexer.")}
    return found


@pytest.mark.parametrize("package", MAY_KNOW)
def test_a_package_knows_only_those_below_it(package: str) -> None:
    for path in (PACKAGE / package).glob("*.py"):
        assert known_to(path) <= MAY_KNOW[package], path


def test_no_module_is_too_long() -> None:
    long = {
        str(path.relative_to(PACKAGE)): count
        for path in PACKAGE.rglob("*.py")
        if (count := len(path.read_text().splitlines())) > LINES
    }
    assert not long


def test_no_two_modules_know_each_other() -> None:
    """Neither at once nor by others between them, nor for their types. (A command group and its commands are one.)"""
    knows: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(("cdc_indexer", *path.relative_to(PACKAGE).with_suffix("").parts))
        knows[name.removesuffix(".__init__")] = {
            alias
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("cdc_indexer")
            for alias in (node.module, *(f"{node.module}.{one.name}" for one in node.names))
        }

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        rest = [start]
        while rest:
            for one in knows.get(rest.pop(), set()) & knows.keys():
                if one not in found:
                    found.add(one)
                    rest.append(one)
        return found

    assert not [name for name in knows if name in reached(name)]


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

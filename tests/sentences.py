"""The sentences that a module can say, found in its source: f-strings and texts as templates, their values as {}."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

#: Two words in small letters, one after the other: prose, and no SQL or key.
_PROSE = re.compile(r"[a-záéíóúñ']{2,},? [a-záéíóúñ']{2,}|^[A-Z][a-z]+ [a-z']+.*[.:]$")

_SQL = re.compile(
    r"\s*(SELECT|SHOW|FROM|WHERE|ORDER|AND|GRANT|REVOKE|ALTER|SET|CREATE|DROP|LEFT|INSERT|DELETE|UNION)\b"
)


def sentences(path: Path, *, errors_only: bool = False) -> set[str]:
    """Each line of each text; what names the log's events, docstrings and SQL are left out.

    ``errors_only``: only what is raised.
    """
    tree = ast.parse(path.read_text())
    found: set[str] = set()
    roots: list[ast.AST] = [tree]
    if errors_only:
        roots = [node for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    for root in roots:
        for text in _texts(root):
            for line in text.split("\n"):
                if _PROSE.search(line) and not _SQL.match(line):
                    found.add(line.strip())
    return found


def _texts(root: ast.AST) -> Iterator[str]:
    left_out = _left_out(root)
    inside: set[int] = set()
    for node in ast.walk(root):
        if id(node) in left_out or id(node) in inside:
            continue
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in node.values}
            yield _template(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield _as_template(node.value)


def _as_template(text: str) -> str:
    """What `str.format` is given."""
    return re.sub(r"\{\w+\}", "{}", text).replace("{{", "{").replace("}}", "}")


def _template(node: ast.JoinedStr) -> str:
    return "".join(
        _as_template(str(part.value)) if isinstance(part, ast.Constant) else "{}" for part in node.values
    )


def _left_out(root: ast.AST) -> set[int]:
    """Docstrings, and what the log's calls and decorators hold."""
    out: set[int] = set()
    for node in ast.walk(root):
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and isinstance(body, list):
            out |= {
                id(part)
                for one in body
                if isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant)
                for part in ast.walk(one)
            }
        decorators = getattr(node, "decorator_list", [])
        calls = [
            node
            for _ in (1,)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "log"
        ]
        for one in (*decorators, *calls):
            out |= {id(part) for part in ast.walk(one)}
    return out

"""What the README says of settings, documents and commands is what the program has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from cdc_indexer.cli import cli
from cdc_indexer.model.settings import Settings
from cdc_indexer.model.study import KEYS

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text()
SPANISH = (ROOT / "README.es.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each key of the files, with its default."""
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _leaves(annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.get_default(call_default_factory=True)


def _table(text: str = README) -> dict[str, str]:
    """The README's default of each key."""
    found: dict[str, str] = {}
    for names, default in re.findall(r"^\| (`[^|]+`) \|([^|]*)\| [^|]+ \|$", text, re.MULTILINE):
        keys = re.findall(r"`([^`]+)`", names)
        section = keys[0].partition(".")[0] if "." in keys[0] else ""
        defaults = default.strip().split(", ")
        for number, key in enumerate(keys):
            full = f"{section}{key}" if key.startswith(".") else key
            found[full] = defaults[number] if len(defaults) == len(keys) else default.strip()
    return found


def test_every_setting_is_in_the_table_and_nothing_else() -> None:
    keys = {key for key, _ in _leaves(Settings)} - {"center", "config_path"}
    table = {key for key in _table() if not key.startswith(("GET ", "POST ", "DELETE "))}
    assert table == keys


@pytest.mark.parametrize(
    ("key", "default"),
    [(key, default) for key, default in _leaves(Settings) if isinstance(default, bool | int | float | str)],
)
def test_the_defaults_in_the_table_are_the_programs(key: str, default: object) -> None:
    if key == "database.port":
        assert _table()[key] == "port 3306"
        return
    shown = json.dumps(default) if isinstance(default, bool) else str(getattr(default, "value", default))
    said = _table()[key].strip("`").replace("`", "")
    if isinstance(default, float | int) and not isinstance(default, bool):
        assert float(said) == float(default)
    else:
        assert said == shown


def test_the_json_has_the_eleven_fields_in_their_order() -> None:
    section = README.partition("## The JSON")[2]
    block = re.search(r"```json\n(.*?)```", section, re.DOTALL)
    assert block is not None
    assert list(json.loads(block[1])) == [*KEYS]


def test_every_command_that_is_named_exists() -> None:
    named = set(re.findall(r"(?:-m cdc_indexer|cdc_indexer|cdc-indexer) ([a-z]+)\b(?=[ `\n])", README))
    assert named >= {"run", "initial"}
    assert {name for name in named if name not in cli.commands} == set()


def _blocks(text: str) -> list[tuple[str, str]]:
    """Language and text of each block of code, without comments, which are translated."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(language, re.sub(r"[ \t]*(?:#|-- ).*", "", block)) for language, block in found]


def _prose(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def _headings(text: str) -> list[str]:
    return re.findall(r"^(#+) ", _prose(text), re.MULTILINE)


def _tables(text: str) -> list[list[int]]:
    """The number of cells in each row of each table."""
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    return [[row.count("|") - 1 for row in table.splitlines()] for table in tables]


def test_the_spanish_readme_has_the_same_sections_and_tables() -> None:
    assert len(_headings(README)) > 10
    assert _headings(SPANISH) == _headings(README)
    assert _tables(SPANISH) == _tables(README)


def test_the_spanish_readme_has_the_same_commands() -> None:
    # A block without a language is a drawing, whose words are translated.
    ours, theirs = _blocks(README), _blocks(SPANISH)
    assert [language for language, _ in theirs] == [language for language, _ in ours]
    assert [block for block in theirs if block[0]] == [block for block in ours if block[0]]


def test_the_spanish_readme_has_the_same_settings_and_defaults() -> None:
    assert list(_table(SPANISH).items()) == list(_table().items())


def test_the_spanish_readme_has_the_same_code_in_its_prose() -> None:
    def code(text: str) -> list[str]:
        return sorted(" ".join(one.split()) for one in re.findall(r"`([^`]+)`", _prose(text)))

    assert code(SPANISH) == code(README)


@pytest.mark.parametrize("name", ["README.md", "README.es.md", "CONTRIBUTING.md"])
def test_every_link_leads_to_a_file(name: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_each_readme_links_to_the_other_and_to_how_to_contribute() -> None:
    assert README.splitlines()[2] == "[En español](README.es.md)"
    assert SPANISH.splitlines()[2] == "[In English](README.md)"
    assert "(CONTRIBUTING.md)" in README
    assert "(CONTRIBUTING.md)" in SPANISH


@pytest.mark.parametrize("text", [README, SPANISH, CONTRIBUTING], ids=["english", "spanish", "contributing"])
def test_every_make_target_that_is_named_exists(text: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    # Where it is a command: at the beginning of a line in a block, or of code in the prose.
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
    assert "test" in named
    assert named - targets == set()

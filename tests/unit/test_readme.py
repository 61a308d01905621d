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
from cdc_indexer.config import Settings
from cdc_indexer.study import KEYS

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text()


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each key of the files, with its default."""
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _leaves(annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.get_default(call_default_factory=True)


def _table() -> dict[str, str]:
    """The README's default of each key."""
    found: dict[str, str] = {}
    for names, default in re.findall(r"^\| (`[^|]+`) \|([^|]*)\| [^|]+ \|$", README, re.MULTILINE):
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

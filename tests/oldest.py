"""The lowest versions of what the program needs that pyproject.toml allows, as constraints for pip."""

from __future__ import annotations

import re
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def constraints(text: str) -> list[str]:
    """A ``name==version`` for each dependency; not for the extras, which are ours to choose.

    Raises ValueError when one has no lowest version.
    """
    block = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert block is not None
    lowest = []
    for line in re.findall(r'"(.*?)"', block[1]):
        found = re.fullmatch(r"([\w.-]+)>=([\w.]+)(,<[\w.]+)?", line)
        if found is None:
            raise ValueError(f"{line} has no lowest version")
        lowest.append(f"{found[1]}=={found[2]}")
    return lowest


if __name__ == "__main__":
    print("\n".join(constraints(PYPROJECT.read_text())))

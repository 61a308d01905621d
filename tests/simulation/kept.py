"""seeds.txt: what failed once, as the shortest course; a line each, with the reason."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tests.simulation.course import Course

__all__ = ["Kept", "kept_courses"]


@dataclass(frozen=True)
class Kept:
    """``why``: what it showed."""

    why: str
    course: Course


def kept_courses(path: Path) -> list[Kept]:
    """In the order of the file; a line that begins with # says something to people."""
    kept = []
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            document = json.loads(line)
            kept.append(Kept(document["why"], Course.parse(document)))
    return kept

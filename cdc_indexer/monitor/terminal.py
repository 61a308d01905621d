"""What may be printed of a text that came from elsewhere (pure)."""

from __future__ import annotations


def printable(text: str, keep: str = "") -> str:
    """Without the escape sequences by which it could play tricks on a terminal; ``keep`` stays."""
    return "".join(character if character.isprintable() or character in keep else " " for character in text)

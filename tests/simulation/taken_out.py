"""Where protections register what takes them out."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["PROTECTIONS", "mutant", "nothing"]

Patch = Callable[[Callable[[object, str, object], None]], None]
PROTECTIONS: dict[str, Patch] = {}


def mutant(name: str) -> Callable[[Patch], Patch]:
    """Registers one by the protection that it takes out."""

    def register(patch: Patch) -> Patch:
        PROTECTIONS[name] = patch
        return patch

    return register


def nothing(*_given: object, **_named: object) -> None:
    return None

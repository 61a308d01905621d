"""Where what can happen in a world registers, by name: how often, and when it can."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ["HAPPENINGS", "happening"]

HAPPENINGS: dict[str, tuple[int, Callable[[World], bool], Callable[[World], None]]] = {}


def happening(
    name: str, weight: int, when: Callable[[World], bool] = lambda world: True
) -> Callable[[Callable[[World], None]], Callable[[World], None]]:
    """Registers one: how often, and when it can."""

    def register(do: Callable[[World], None]) -> Callable[[World], None]:
        HAPPENINGS[name] = (weight, when, do)
        return do

    return register

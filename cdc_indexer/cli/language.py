"""The option ``--lang``, and the language of what the commands say: Spanish too, by the locale where nobody asks."""

# ruff: noqa: PLC0415 - imports inside, as in __init__.py
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

__all__ = ["asked", "in_language", "say"]

_asked: list[str] = []


def _choose(_: click.Context, __: click.Parameter, value: str | None) -> None:
    if value is not None:
        _asked[:] = [value]
        from cdc_indexer.monitor import language

        language.choose(value)


def in_language(command: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator: the command has the option."""
    return click.option(
        "--lang",
        type=click.Choice(["en", "es"]),
        expose_value=False,
        # Before the others, so that what is said of them is in it.
        is_eager=True,
        callback=_choose,
        help="The language; without it that of the locale.",
    )(command)


def asked() -> str | None:
    """The language that somebody has asked for; None: nobody has."""
    return _asked[0] if _asked else None


def say(text: str) -> str:
    """A sentence of ours in the reader's language."""
    from cdc_indexer.monitor import language

    return language.say(text)

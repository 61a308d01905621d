"""The option ``--lang``, and the language of what the commands say: Spanish too, by the locale where nobody asks."""

# ruff: noqa: PLC0415 - imports inside, as in __init__.py
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

__all__ = ["asked", "in_language", "listen", "say"]

_LANGUAGES = ("en", "es")

_asked: list[str] = []


def _choose(_: click.Context, __: click.Parameter, value: str | None) -> None:
    if value is not None:
        _asked[:] = [value]
        from cdc_indexer.monitor import language

        language.choose(value)


def listen(arguments: Sequence[str]) -> None:
    """Before anything is said: what is asked for may stand behind what is wrong, or behind --help."""
    for one, following in zip(arguments, (*arguments[1:], ""), strict=False):
        name, equals, value = one.partition("=")
        if name == "--lang" and (wanted := value if equals else following) in _LANGUAGES:
            from cdc_indexer.monitor import language

            language.choose(wanted)


def in_language(command: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator: the command has the option."""
    return click.option(
        "--lang",
        type=click.Choice(_LANGUAGES),
        expose_value=False,
        # Before the others, so that what is said of them is in it.
        is_eager=True,
        callback=_choose,
        help="The language; without it that of the locale. May also stand before the command.",
    )(command)


def asked() -> str | None:
    """The language that somebody has asked for; None: nobody has."""
    return _asked[0] if _asked else None


def say(text: str) -> str:
    """A sentence of ours in the reader's language."""
    from cdc_indexer.monitor import language

    return language.say(text)

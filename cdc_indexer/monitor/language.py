"""What the program says in the reader's language: English, or Spanish by ``--lang es`` or by the locale.

Sentences are made in English, deep below, and many are kept: in status.json, with a parked study, in the log. Who reads them
may want another language than who wrote them. So they are translated where they are shown, by the patterns of
locale/es.po (gettext's format, for the tools of translators; gettext itself wants a sentence before its values are in it).
What has no pattern stays English; a test finds it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from cdc_indexer.model.program import as_called

__all__ = ["LANGUAGES", "by_locale", "catalogue", "choose", "current", "say"]

LANGUAGES = ("en", "es")

_ENTRY = re.compile(r'^msgid ("(?:[^"\\]|\\.)+")\nmsgstr ("(?:[^"\\]|\\.)+")$', re.MULTILINE)

#: A pattern with fewer letters than this is one of a few words: no whole sentence is taken for a value of it.
_SHORT = 12
_LEAST = 2

#: What is said of a setting begins so, after the file and the setting's name.
_PREDICATE = re.compile(r"(?:is|isn't|must|has|holds|can't|would|names) ")

_SUBJECTS = (
    ("{}: {}", "{}: {}"),
    ("{} (environment variable {})", "{} (variable de entorno {})"),
    ("environment variable {}", "la variable de entorno {}"),
)

#: Between two sentences, and between what happened and what to do.
_BETWEEN = (re.compile(r"(?<=[.!?]) (?=\S)"), re.compile(r"(?<=[:;]) (?=\S)"))

_language = ""


def by_locale(environ: Mapping[str, str]) -> str:
    """The language of a POSIX locale: the first of these variables that is set says it."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if value := environ.get(name):
            return "es" if value.lower().startswith("es") else "en"
    return "en"


def choose(language: str | None) -> None:
    """For the rest of this process; None: as the locale says."""
    global _language  # noqa: PLW0603 - one process, one reader
    _language = language or by_locale(os.environ)


def current() -> str:
    """The language that was chosen."""
    if not _language:
        choose(None)
    return _language


def say(text: str, language: str | None = None) -> str:
    """A text of this program, line by line; what isn't known stays as it is: names, SQL, what is pasted."""
    if (language or current()) != "en":
        text = "\n".join(_line(line) for line in text.split("\n"))
    return as_called(text)


class _Pattern(NamedTuple):
    expression: re.Pattern[str]
    spanish: str
    #: How many letters, and how many characters, stand in it beside its values.
    letters: int
    literal: int
    #: A part of a sentence: it takes no whole one for its last value.
    part: bool
    #: Its values are names of files and settings.
    verbatim: bool


@cache
def catalogue() -> dict[str, str]:
    """English -> Spanish, values as {}."""
    text = (Path(__file__).parent / "locale" / "es.po").read_text(encoding="utf-8")
    return {json.loads(english): json.loads(spanish) for english, spanish in _ENTRY.findall(text)}


@cache
def _patterns() -> list[_Pattern]:
    found = []
    for english, spanish in catalogue().items():
        variants = [(english, spanish, False)]
        if _PREDICATE.match(english):
            end = "" if english.endswith(("?", ".")) else "."
            for subject, sujeto in _SUBJECTS:
                variants.append((f"{subject} {english}{end}", f"{sujeto} {spanish}{end}", True))
        # `check` parts what happened and what to do: "A: b" becomes "A." and "B".
        happened, colon, remedy = english.partition(": ")
        said, same, what = spanish.partition(": ")
        if colon and same and happened.count("{}") == said.count("{}"):
            variants += [(f"{happened}.", f"{said}.", False), (_capital(remedy), _capital(what), False)]
        found += [_pattern(*variant) for variant in variants if "{}" in variant[0] or variant[0] != english]
    return sorted((one for one in found if one.letters >= _LEAST), key=lambda one: one.literal, reverse=True)


def _pattern(english: str, spanish: str, verbatim: bool) -> _Pattern:
    first, *others = english.split("{}")
    expression, before = re.escape(first), first
    for part in others:
        # What is joined to the word before it may be nothing.
        expression += ("(.+?)" if before == "" or before.endswith(" ") else "(.*?)") + re.escape(part)
        before = part or "joined"
    literal = english.replace("{}", "")
    letters = sum(character.isalpha() for character in literal)
    return _Pattern(
        re.compile(expression, re.DOTALL),
        spanish,
        letters,
        len(literal),
        english.endswith("{}") and ": " not in english,
        verbatim,
    )


def _line(line: str) -> str:
    stripped = line.strip()
    if not stripped:
        return line
    start = line.index(stripped)
    return line[:start] + _sentences(stripped) + line[start + len(stripped) :]


def _sentences(text: str) -> str:
    whole = _known(text)
    if whole is not None:
        return whole
    for between in _BETWEEN:
        parts = between.split(text)
        if len(parts) > 1:
            return " ".join(_sentences(part) for part in parts)
    return text


def _known(text: str) -> str | None:
    """The whole of it by one pattern; None when there is none."""
    exact = catalogue().get(text)
    if exact is not None:
        return exact
    if text.endswith(".") and (sentence := catalogue().get(text[:1].lower() + text[1:-1])) is not None:
        return f"{_capital(sentence)}."
    for pattern in _patterns():
        match = pattern.expression.fullmatch(text)
        if match is None:
            continue
        values = match.groups()
        if pattern.part and text.endswith((".", ":")):
            continue
        if pattern.letters < _SHORT and any(
            between.search(value) for value in values for between in _BETWEEN
        ):
            continue
        return _filled(pattern.spanish, values if pattern.verbatim else tuple(map(_line, values)))
    return None


def _filled(template: str, values: tuple[str, ...]) -> str:
    first, *others = template.split("{}")
    return first + "".join(value + other for value, other in zip(values, others, strict=True))


def _capital(text: str) -> str:
    start = 1 if text.startswith("¿") else 0
    return text[:start] + text[start : start + 1].upper() + text[start + 1 :]

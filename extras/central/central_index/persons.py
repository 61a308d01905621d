"""Whose an id is: how it is written differs from centre to centre (pure)."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from itertools import combinations
from typing import Any, Protocol

from stdnum import get_cc_module
from stdnum.exceptions import InvalidFormat, InvalidLength, ValidationError

from central_index.words import id_key, words_of

#: No country's number has so many characters.
_LONGEST_ID = 40
#: So many zeros at the front are put back. With more, many a hospital's own number would be valid by chance.
_LOST_ZEROS = 2
#: Of one id. Who has more is hardly one person, and to compare them takes long.
_MOST_NAMES = 20
_MOST_WORDS = 8
_MOST_LETTERS = 20
#: What half of all names have says nothing of whose a name is.
_PARTICLES = {"da", "das", "de", "del", "do", "dos", "e", "el", "la", "las", "los", "van", "von", "y"}
#: So alike are two spellings of a name: GONZALES and GONZALEZ.
_NEARLY = 0.8


class UnknownRule(Exception):
    """There is no such rule; the text is one sentence."""


class _Number(Protocol):
    def is_valid(self, number: str) -> bool: ...

    def validate(self, number: str) -> str: ...


class IdRule:
    """A country's rule for ids, such as cl.rut, es.dni or es.nie (python-stdnum's names)."""

    def __init__(self, name: str) -> None:
        """Raises UnknownRule."""
        country, _, kind = name.partition(".")
        module = get_cc_module(country, kind) if country and kind.isidentifier() else None
        if module is None:
            raise UnknownRule(
                f"There is no rule {name}: take one of python-stdnum's, such as cl.rut or es.dni."
            )
        self._module: _Number = module
        lengths = [length for length in range(1, _LONGEST_ID) if self._has(length)]
        #: Where all have the same.
        self._length = lengths[0] if len(lengths) == 1 else 0

    def is_valid(self, patient_id: str) -> bool:
        """Whether it names one person, check digit included: as it is written, or as others write the same."""
        if len(patient_id) > _LONGEST_ID:
            return False
        plain = re.sub(r"[ .\-/]", "", patient_id).upper()
        short = plain.lstrip("0")
        spellings = [patient_id, plain]
        if len(short) >= self._length - _LOST_ZEROS:
            spellings.append(short.zfill(self._length))
        return any(self._takes(one) for one in dict.fromkeys(spellings) if one)

    def _takes(self, number: str) -> bool:
        try:
            return self._module.is_valid(number)
        except (ValueError, LookupError):
            # Some trip over signs that no number has. What a centre sends must not keep its studies from being shown.
            return False

    def _has(self, length: int) -> bool:
        """Whether one may have so many figures."""
        try:
            self._module.validate("1" * length)
        except (InvalidFormat, InvalidLength):
            return False
        except ValidationError:
            pass
        return True


def names_differ(names: Iterable[str | None]) -> bool:
    """Whether two of them differ much: then one id may be two people's.

    They do with fewer than two words in common, or than the shorter one has.
    """
    found = {frozenset(words): words for words in map(_words, names) if words}
    if len(found) > _MOST_NAMES:
        return True
    alike: dict[tuple[str, str], bool] = {}
    return any(
        _in_common(one, other, alike) < min(2, len(one), len(other))
        for one, other in combinations(found.values(), 2)
    )


def _words(name: str | None) -> list[str]:
    words = dict.fromkeys(word[:_MOST_LETTERS] for word in words_of(name or ""))
    return [word for word in words if word not in _PARTICLES][:_MOST_WORDS]


def _in_common(one: Sequence[str], other: Sequence[str], alike: dict[tuple[str, str], bool]) -> int:
    """How many words of the one have each another one of the other: as many as can be."""
    taken: dict[str, str] = {}

    def takes(word: str, tried: set[str]) -> bool:
        for candidate in other:
            pair = word, candidate
            if pair not in alike:
                alike[pair] = _alike(word, candidate)
            if not alike[pair] or candidate in tried:
                continue
            tried.add(candidate)
            # Who has it may have another one as well.
            if candidate not in taken or takes(taken[candidate], tried):
                taken[candidate] = word
                return True
        return False

    return sum(takes(word, set()) for word in one)


def _alike(one: str, other: str) -> bool:
    """Equal, or an initial of the other, or nearly equal."""
    if one.startswith(other) or other.startswith(one):
        return True
    matcher = SequenceMatcher(None, one, other, autojunk=False)
    return matcher.quick_ratio() >= _NEARLY and matcher.ratio() >= _NEARLY


def hidden(study: dict[str, Any], secret: bytes) -> dict[str, Any]:
    """A study for who may not know whose it is: initials and a pseudonym, the same for each study of one id."""
    name, patient_id = study["patient_name"], study["patient_id"]
    shown = {field: study[field] for field in _HARMLESS if field in study}
    shown["patient_name"] = " ".join(f"{word[0].upper()}." for word in words_of(name)) if name else None
    shown["patient_id"] = None
    if patient_id:
        digest = hmac.new(secret, id_key(patient_id).encode(), hashlib.sha256).hexdigest()
        shown["patient_id"] = f"P-{digest[:10]}"
    return shown


#: What a study has besides, a centre's further fields first of all, may say whose it is.
_HARMLESS = (
    "id", "study_iuid", "study_datetime", "study_modality", "study_series", "study_instances", "center",
    "first_received_at", "received_at", "versions", "viewer",
)  # fmt: skip

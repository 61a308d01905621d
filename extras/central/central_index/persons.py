"""Whose an id is: how it is written differs from centre to centre (pure)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Any, Protocol

from stdnum import get_cc_module

from central_index.words import id_key, words_of


class UnknownRule(Exception):
    """There is no such rule; the text is one sentence."""


class _Number(Protocol):
    def is_valid(self, number: str) -> bool: ...


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

    def is_valid(self, patient_id: str) -> bool:
        """Whether it names one person, check digit included."""
        return self._module.is_valid(id_key(patient_id))


def names_differ(names: Iterable[str | None]) -> bool:
    """Whether two of them have no word in common: then one id may be two people's."""
    words = [set(words_of(name)) for name in dict.fromkeys(names) if name]
    return any(not one & other for number, one in enumerate(words) for other in words[:number])


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

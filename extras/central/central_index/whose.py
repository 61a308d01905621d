"""Whose studies are meant by an id, and who was meant by what was looked for (pure)."""

from __future__ import annotations

from typing import Any

from central_index.model import Filters
from central_index.persons import IdRule
from central_index.words import id_key, words_of


class Person:
    """Who has an id: as a search means it, exactly this one; all its spellings where it has the form of the rule's."""

    def __init__(self, patient_id: str, rule: IdRule | None) -> None:
        self.patient_id = patient_id
        self._key = id_key(patient_id)
        # An id of nothing but points and zeros has no spelling: that would be everybody's who has such a one.
        self._spelt = rule is not None and self._key != "" and rule.has_form(patient_id)

    def filters(self) -> Filters:
        if self._spelt:
            return Filters(patient_key=self._key)
        return Filters(patient_id=self.patient_id)

    def has(self, patient_id: str) -> bool:
        return id_key(patient_id) == self._key if self._spelt else patient_id == self.patient_id

    def is_in(self, content: dict[str, Any]) -> bool:
        """Whether a record's content is about this person."""
        if any(self.has(one) for one in (*_asked(content), *_shown(content))):
            return True
        # The page's box takes no notice of case or accents, so the same words are the same id.
        words = words_of(self.patient_id)
        return any(self.has(one) or words == words_of(one) for one in content.get("ids", []))


def patients_of(content: dict[str, Any]) -> set[str]:
    """The ids by which a record is found: what was looked for, and whose studies were shown."""
    return {*_asked(content), *_shown(content), *content.get("ids", [])}


def ids_in(text: str) -> list[str]:
    """What may be ids in the words that somebody looked for: whatever has a figure in it, and the text as a whole."""
    return sorted({one for one in (text, *text.split()) if any(map(str.isdigit, one))})


def _asked(content: dict[str, Any]) -> list[str]:
    asked = content.get("filters", {}).get("patient_id")
    return [str(asked)] if asked else []


def _shown(content: dict[str, Any]) -> list[str]:
    return [str(one[2]) for one in content.get("studies", []) if one[2]]

"""What a study is found by: words without accents, and marks for the values that are looked for as a whole (pure)."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable, Mapping
from string import ascii_lowercase, ascii_uppercase
from typing import Any, NamedTuple

#: Of one study. No name has so many.
_MOST_WORDS = 64
#: In characters, of a word and of what is looked for as a whole. PostgreSQL cuts what has more than 2,046 bytes, within a
#: character perhaps, and says nothing; a backup of that can't be read again.
_LONGEST = 250
#: Of each word in a pair: so many letters as a whole, and so many at most.
HEAD, BEGINNING = 3, 5
#: Words in pairs. Names have fewer; more would be too many pairs.
MOST_PAIRED = 12
#: The pair of what has more.
TOO_MANY = "="
#: As SQLite's upper() does it.
_UPPER = str.maketrans(ascii_lowercase, ascii_uppercase)


class _WithoutAccents(dict[int, int | None]):
    """For str.translate; each character of names is looked up once."""

    _MOST = 5_000

    def __missing__(self, code: int) -> int | None:
        found = None if unicodedata.combining(chr(code)) else code
        if len(self) < self._MOST:
            self[code] = found
        return found


_WITHOUT_ACCENTS = _WithoutAccents()


def words_of(text: str) -> list[str]:
    """Letters and digits, folded: PEÑA^JOSÉ is pena, jose."""
    plain = text.casefold()
    if not plain.isascii():
        plain = unicodedata.normalize("NFKD", plain).translate(_WITHOUT_ACCENTS)
    return [word[:_LONGEST] for word in re.findall(r"[^\W_]+", plain)[:_MOST_WORDS]]


class Pair(NamedTuple):
    """How two words of a study begin, the lesser one first; what is asked for is as long as the shorter one tells."""

    one: str
    two: str

    @property
    def text(self) -> str:
        """Both heads, then a letter of each in turn: of juan and jose it begins with josjuaen."""
        turns = itertools.zip_longest(self.one[HEAD:], self.two[HEAD:], fillvalue="")
        return f"{self.one[:HEAD]}{self.two[:HEAD]}{''.join(itertools.chain.from_iterable(turns))}"


def is_paired(word: str) -> bool:
    """Figures come before letters: ids aren't."""
    return len(word) >= HEAD and word >= "a"


def pairs_asked(words: Iterable[str]) -> list[Pair]:
    """Those that a study has if it has all these beginnings of words: of two names that many have, few have both.

    Two of which one begins as the other are none: one name may be what both mean.
    """
    # In the order of their bytes in UTF-8.
    asked = sorted({word[:BEGINNING] for word in words if is_paired(word)})
    if len(asked) > MOST_PAIRED:
        return []
    return [
        Pair(one[: len(two) + 1], two[: len(one)])
        for one, two in itertools.combinations(asked, 2)
        if not two.startswith(one)
    ]


def id_key(patient_id: str) -> str:
    """The same for 26.267.267-K, 26267267-k and 026267267K. SQLite's column is made in the same way."""
    return re.sub(r"[ .\-/]", "", patient_id).translate(_UPPER).lstrip("0")


def modalities_of(text: str) -> list[str]:
    """DICOM parts the values of one field by a backslash: CT\\SR is both."""
    return [one.upper() for one in text.split("\\") if one]


def modality_mark(modality: str) -> str:
    return f"=m:{modality}"


def center_mark(center: str) -> str:
    return f"=c:{center}"


def key_mark(key: str) -> str:
    return f"=k:{key}"


def accession_mark(accession_number: str) -> str:
    return f"=a:{accession_number}"


def tokens_of(study: Mapping[str, Any]) -> list[str]:
    """All that a study is found by. A mark begins as no word does, so that no beginning of a word means it."""
    name, patient_id = study["patient_name"] or "", study["patient_id"]
    tokens = dict.fromkeys(words_of(f"{name} {patient_id or ''}"))
    tokens[center_mark(study["center"])] = None
    if patient_id:
        tokens[key_mark(id_key(patient_id))] = None
    accession = study.get("accession_number")
    if isinstance(accession, str) and 0 < len(accession) <= _LONGEST:
        tokens[accession_mark(accession)] = None
    for modality in modalities_of(study["study_modality"] or ""):
        tokens[modality_mark(modality)] = None
    return list(tokens)

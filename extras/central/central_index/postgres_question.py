"""How PostgreSQL is asked for what a reader looks for: conditions, words, and how it is to be planned (pure)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any, NamedTuple

from central_index.frequencies import Frequencies
from central_index.model import MOST_COUNTED, Filters
from central_index.words import (
    TOO_MANY,
    accession_mark,
    center_mark,
    id_key,
    is_paired,
    key_mark,
    modalities_of,
    modality_mark,
    pairs_asked,
    words_of,
)

#: In such a way that no index is asked.
_LOOKED_AT = " AND (words @@ %s::tsquery) IS TRUE"
_NARROW = timedelta(days=31)
_NARROW_STUDIES = 100_000
#: What so many times as many studies have as are counted isn't counted.
_SURELY = 20
#: The index of words gathers all that begins with a word, each at a twentieth of what a row costs that is read from the
#: table: it isn't asked for words that more than so many times as many studies have as the rarest.
GATHERED = 20
#: Rows of the table.
_LITTLE = 2_000


class Question(NamedTuple):
    """``words``: what the index of words is asked; ``besides``: further words, looked at in what is found. ``pairs``: what
    the index of pairs is asked instead, where that is less work; then all words are looked at.

    ``exact``: all words without what only begins with them, where each is many studies'. That is answered quickly, and
    enough to say that there are many. ``many``: that is known without being asked. ``fetching``: how much the index is
    expected to take, in rows read from the table. ``part``: what part of all has all the words, if each had them by chance;
    ``of_modality``: the modality alone.
    """

    conditions: str
    values: list[Any]
    words: str | None
    besides: str | None
    exact: str | None
    pairs: str | None = None
    many: bool = False
    fetching: float = 0.0
    part: float = 0.0
    of_modality: float = 1.0

    @property
    def by_words_alone(self) -> bool:
        """No other index could be asked for a part of it."""
        return self.words is not None and "sorted_at" not in self.conditions

    def where(self, *, by_index: bool = True) -> tuple[str, list[Any]]:
        text, values = self.conditions, list(self.values)
        if self.pairs is not None and by_index:
            text += " AND study_pairs(words) @@ %s::tsquery"
            values.append(self.pairs)
            by_index = False
        if self.words is not None:
            text += " AND words @@ %s::tsquery" if by_index else _LOOKED_AT
            values.append(self.words)
        if self.besides is not None:
            text += _LOOKED_AT
            values.append(self.besides)
        return text, values


class Plans(NamedTuple):
    """How a statement is planned. To look at 16 partitions takes longer than most searches, so what always goes the same way
    is planned once for each connection; and since nothing is known of the values then, it is told which way that is.
    """

    plan_cache_mode: str
    enable_bitmapscan: str = "on"


ANEW = Plans("force_custom_plan")
BY_WORDS = Plans("force_generic_plan")
BY_DATE = Plans("force_generic_plan", enable_bitmapscan="off")


def question_of(filters: Filters, frequencies: Frequencies) -> Question | None:
    """None where nothing can match."""
    parts: list[tuple[str, bool]] = []
    if filters.patient is not None:
        words = words_of(filters.patient)
        if not words:
            return None
        parts += [(word, True) for word in words]
    if filters.patient_id is not None:
        # Which of its spellings it is, the condition says. A mark of its own would be one key more, at another place.
        parts.append((key_mark(id_key(filters.patient_id)), False))
    if filters.patient_key is not None:
        parts.append((key_mark(filters.patient_key), False))
    if filters.accession_number is not None:
        parts.append((accession_mark(filters.accession_number), False))
    if filters.modality is not None:
        modalities = modalities_of(filters.modality)
        if not modalities:
            return None
        parts += [(modality_mark(one), False) for one in modalities]
    often = [part for part in parts if frequencies.often(*part)]
    conditions, values = _conditions(filters, by_date=len(often) == len(parts))
    shares = {part: frequencies.share(*part) for part in parts}
    if len(often) < len(parts):
        most = GATHERED * min(shares.values())
        gathered = [part for part in parts if part not in often or shares[part] <= most]
        besides = [part for part in parts if part not in gathered]
        rare = [part for part in parts if part not in often]
        pairs, paired = None, 0.0
        # An id is rarer than any pair.
        if all(begins and is_paired(word) for word, begins in rare):
            pairs, paired = _pairs(filters, frequencies, [shares[part] for part in gathered])
        # One that isn't even known may be as rare as an id; then pairs are asked for only where that costs little.
        if paired > _LITTLE and not all(frequencies.knows(*part) for part in rare):
            pairs = None
        return Question(conditions, values, _asked(gathered), _asked(besides), None, pairs)
    if not often or _is_narrow(filters, frequencies):
        return Question(conditions, values, None, _asked(often), None)
    pairs, fetching = _pairs(filters, frequencies, list(shares.values()))
    # The statistics may be a day old, but not so far from the truth.
    many = len(parts) == 1 and not values and frequencies.studies * shares[parts[0]] > _SURELY * MOST_COUNTED
    if filters.center is not None:
        # A centre alone has an index in its order.
        often.append((center_mark(filters.center), False))
    exact = _asked([(lexeme, False) for lexeme, _ in often])
    part = math.prod(shares[part] for part in parts)
    marks = {modality_mark(one) for one in modalities_of(filters.modality or "")}
    of_modality = math.prod(share for (word, _), share in shares.items() if word in marks)
    return Question(conditions, values, _asked(often), None, exact, pairs, many, fetching, part, of_modality)


def _pairs(filters: Filters, frequencies: Frequencies, gathered: Sequence[float]) -> tuple[str | None, float]:
    """What the index of pairs is asked, if that is less work than to gather words with these shares; and how much it is."""
    rows = math.prod(gathered) + sum(gathered) / GATHERED
    words = words_of(filters.patient or "")
    if frequencies.pairs and (pairs := pairs_asked(words)):
        both = min(math.prod(frequencies.share(one, True) for one in pair) for pair in pairs)
        if both < rows:
            # What has too many pairs may have these.
            asked = _asked([(pair.text, True) for pair in pairs])
            return f"{asked} | '{TOO_MANY}'", frequencies.studies * both
    return None, frequencies.studies * rows


def is_of_days(filters: Filters, frequencies: Frequencies) -> bool:
    """Whether the index of dates has all that is asked, of few days."""
    others = (
        filters.patient,
        filters.patient_id,
        filters.patient_key,
        filters.accession_number,
        filters.study_iuid,
    )
    if others != (None,) * len(others) or not (filters.modality or "").isascii():
        return False
    return _is_narrow(filters, frequencies)


def moments(filters: Filters) -> tuple[str, str]:
    """What lies between them is meant."""
    return f"{filters.from_date or '0001-01-01'} 00:00:00", f"{filters.to_date or '9999-12-31'} 23:59:59"


def _is_narrow(filters: Filters, frequencies: Frequencies) -> bool:
    """So few days, or days of so few studies, that to look at each of these is quicker than the index of words."""
    first, last = filters.from_date, filters.to_date
    if first is None and last is None:
        return False
    if (
        first is not None
        and last is not None
        and date.fromisoformat(last) - date.fromisoformat(first) < _NARROW
    ):
        return True
    studies = frequencies.between(*moments(filters))
    return studies is not None and studies <= _NARROW_STUDIES


def _asked(parts: Sequence[tuple[str, bool]]) -> str | None:
    return " & ".join(_quoted(lexeme) + (":*" if begins else "") for lexeme, begins in parts) or None


def _quoted(lexeme: str) -> str:
    return "'{}'".format(lexeme.replace("\\", "\\\\").replace("'", "''"))


def _conditions(filters: Filters, by_date: bool) -> tuple[str, list[Any]]:
    """``by_date``: so that the index of dates can be used. For rare words it mustn't: of two conditions on one date the
    planner expects a hundredth of what one leaves, and would go through years of studies for one of an id.
    """
    found: list[tuple[str, object]] = []
    if filters.study_iuid is not None:
        found.append(("study_iuid = %s", filters.study_iuid))
    if filters.patient_id is not None:
        found.append(("patient_id = %s", filters.patient_id))
    if filters.center is not None:
        # Only its own partition is looked at.
        found.append(("center = %s", filters.center))
    if filters.only is not None:
        found.append(("center = ANY(%s)", list(filters.only)))
    if filters.from_date is not None:
        found.append(
            (f"study_datetime >= %s{' AND sorted_at >= %s' * by_date}", f"{filters.from_date} 00:00:00")
        )
    if filters.to_date is not None:
        found.append(
            (f"study_datetime <= %s{' AND sorted_at <= %s' * by_date}", f"{filters.to_date} 23:59:59")
        )
    conditions = ["NOT deleted", *(condition for condition, _ in found)]
    values = [value for condition, value in found for _ in range(condition.count("%s"))]
    return " AND ".join(conditions), values


def plans_of(filters: Filters, *, of_days: bool, by_words: bool) -> Plans:
    """``by_words``: the index of words is asked first, and nothing else has one that could be asked."""
    if filters.center is not None or filters.only is not None or filters.study_iuid is not None:
        # Only some partitions are looked at, once it is known which. How many studies a centre has matters, too.
        return ANEW
    return BY_DATE if of_days else BY_WORDS if by_words else ANEW


def window_of(filters: Filters) -> tuple[str, list[Any]]:
    """What bounds the way through their order."""
    bounds = ["NOT deleted"]
    values: list[Any] = []
    if filters.after is not None:
        bounds.append("(sorted_at, id) < (%s, %s)")
        values += filters.after
    if filters.center is not None:
        bounds.append("center = %s")
        values.append(filters.center)
    if filters.from_date is not None:
        bounds.append("sorted_at >= %s")
        values.append(f"{filters.from_date} 00:00:00")
    if filters.to_date is not None:
        bounds.append("sorted_at <= %s")
        values.append(f"{filters.to_date} 23:59:59")
    return " AND ".join(bounds), values

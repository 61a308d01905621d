"""Which words many studies have, and how many stand between two moments (pure)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from datetime import datetime

#: What so large a part of all studies has, is many's.
OFTEN = 0.002


class Dates:
    """Where so many studies stand: ``common`` moments have ``shares`` of them, and between each two of ``bounds`` there are
    as many of the others. Moments as YYYY-MM-DD HH:MM:SS.
    """

    def __init__(
        self,
        studies: float,
        common: Sequence[str] | None,
        shares: Sequence[float] | None,
        bounds: Sequence[str] | None,
    ) -> None:
        self._common = [
            (moment, studies * share) for moment, share in zip(common or (), shares or (), strict=True)
        ]
        # Of another form is what somebody wrote there by hand.
        self._bounds = sorted(moment for moment in map(_seconds, bounds or ()) if moment is not None)
        others = studies * (1 - sum(shares or ()))
        self._each = others / (len(self._bounds) - 1) if len(self._bounds) > 1 else 0.0

    def between(self, first: str, last: str) -> float:
        common = sum(studies for moment, studies in self._common if first <= moment <= last)
        return common + self._each * (self._place(last) - self._place(first))

    def _place(self, moment: str) -> float:
        """Of the bound at that moment; between two of them as if all lay at even distances."""
        seconds, bounds = _seconds(moment) or 0.0, self._bounds
        behind = bisect_right(bounds, seconds)
        if behind in (0, len(bounds)):
            return max(0.0, behind - 1.0)
        before = bounds[behind - 1]
        return behind - 1 + (seconds - before) / (bounds[behind] - before)


def _seconds(moment: str) -> float | None:
    try:
        return (datetime.fromisoformat(moment) - datetime.min).total_seconds()
    except (ValueError, TypeError):
        return None


class Frequencies:
    """``shares``: which part of all ``studies`` has each frequent word; ``least``: what others have at most.

    ``dates``: of each part. ``pairs``: whether there is an index of pairs of names.
    """

    def __init__(
        self,
        shares: Mapping[str, float],
        least: float = 0.0,
        studies: float = 0.0,
        dates: Sequence[Dates] = (),
        pairs: bool = False,
    ) -> None:
        self.studies = studies
        self.pairs = pairs
        self._dates = dates
        self._shares = dict(shares)
        self._words = sorted(shares)
        self._least = least

    def often(self, word: str, begins: bool) -> bool:
        """Whether many studies have it, or with ``begins`` a word that begins so."""
        return any(self._shares[one] >= OFTEN for one in self._those(word, begins))

    def share(self, word: str, begins: bool) -> float:
        """Which part of all has it, or with ``begins`` words that begin so; of a rare one the most that it may be."""
        return max(self._least, sum(self._shares[one] for one in self._those(word, begins)))

    def knows(self, word: str, begins: bool) -> bool:
        """Otherwise its share is at most what is said."""
        return bool(self._those(word, begins))

    def between(self, first: str, last: str) -> float | None:
        """About how many studies stand there; None where nothing is known."""
        return sum(part.between(first, last) for part in self._dates) if self._dates else None

    def _those(self, word: str, begins: bool) -> list[str]:
        if not begins:
            return [word] if word in self._shares else []
        first = last = bisect_left(self._words, word)
        while last < len(self._words) and self._words[last].startswith(word):
            last += 1
        return self._words[first:last]

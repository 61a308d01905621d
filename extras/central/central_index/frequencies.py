"""Which words many studies have (pure)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

#: What so large a part of all studies has, is many's.
OFTEN = 0.002


class Frequencies:
    """``shares``: which part of all ``studies`` has each frequent word; ``least``: what others have at most."""

    def __init__(self, shares: Mapping[str, float], least: float = 0.0, studies: float = 0.0) -> None:
        self.studies = studies
        self._shares = dict(shares)
        self._words = sorted(shares)
        self._least = least

    def often(self, word: str, begins: bool) -> bool:
        """Whether many studies have it, or with ``begins`` a word that begins so."""
        return any(self._shares[one] >= OFTEN for one in self._those(word, begins))

    def share(self, word: str, begins: bool) -> float:
        """Which part of all has it, or with ``begins`` words that begin so; of a rare one the most that it may be."""
        return max(self._least, sum(self._shares[one] for one in self._those(word, begins)))

    def _those(self, word: str, begins: bool) -> list[str]:
        if not begins:
            return [word] if word in self._shares else []
        first = last = bisect_left(self._words, word)
        while last < len(self._words) and self._words[last].startswith(word):
            last += 1
        return self._words[first:last]

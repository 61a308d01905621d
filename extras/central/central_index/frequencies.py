"""Which words many studies have (pure)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

#: What so large a part of all studies has, is many's.
OFTEN = 0.002


class Frequencies:
    """``shares``: of the words that OFTEN of all studies have, which part has them."""

    def __init__(self, shares: Mapping[str, float]) -> None:
        self._shares = dict(shares)
        self._words = sorted(shares)

    def often(self, word: str, begins: bool) -> bool:
        """Whether many studies have it, or with ``begins`` words that begin so."""
        if not begins:
            return word in self._shares
        first = bisect_left(self._words, word)
        return first < len(self._words) and self._words[first].startswith(word)

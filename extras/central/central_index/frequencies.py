"""Which words many studies have, and how many lie between two moments (pure)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, chain

#: What so large a part of all studies has, is many's.
OFTEN = 0.002


Moments = list[tuple[str, float]]


def spread(
    studies: float, common: Sequence[str] | None, shares: Sequence[float] | None, bounds: Sequence[str] | None
) -> Moments:
    """For how many of these each moment speaks: ``common`` ones, which have ``shares`` of them, and between each two of
    ``bounds`` as many of the others.
    """
    found = [(moment, studies * share) for moment, share in zip(common or (), shares or (), strict=True)]
    if bounds:
        each = studies * (1 - sum(shares or ())) / (len(bounds) - 1)
        # Half of those before a bound and half of those behind it.
        found += [(bound, each if bound not in (bounds[0], bounds[-1]) else each / 2) for bound in bounds]
    return found


class Frequencies:
    """``shares``: which part of all ``studies`` has each frequent word; ``least``: what others have at most.

    ``moments``: where they stand, by parts. ``pairs``: whether there is an index of pairs of names.
    """

    def __init__(
        self,
        shares: Mapping[str, float],
        least: float = 0.0,
        studies: float = 0.0,
        moments: Iterable[Moments] = (),
        pairs: bool = False,
    ) -> None:
        self.studies = studies
        self.pairs = pairs
        by_moment = sorted(chain.from_iterable(moments))
        self._moments = [moment for moment, _ in by_moment]
        self._until = list(accumulate((number for _, number in by_moment), initial=0.0))
        self._shares = dict(shares)
        self._words = sorted(shares)
        self._least = least

    def often(self, word: str, begins: bool) -> bool:
        """Whether many studies have it, or with ``begins`` a word that begins so."""
        return any(self._shares[one] >= OFTEN for one in self._those(word, begins))

    def share(self, word: str, begins: bool) -> float:
        """Which part of all has it, or with ``begins`` words that begin so; of a rare one the most that it may be."""
        return max(self._least, sum(self._shares[one] for one in self._those(word, begins)))

    def between(self, first: str, last: str) -> float | None:
        """About how many studies stand there; None where nothing is known."""
        if not self._moments:
            return None
        return self._until[bisect_right(self._moments, last)] - self._until[bisect_left(self._moments, first)]

    def _those(self, word: str, begins: bool) -> list[str]:
        if not begins:
            return [word] if word in self._shares else []
        first = last = bisect_left(self._words, word)
        while last < len(self._words) and self._words[last].startswith(word):
            last += 1
        return self._words[first:last]

"""Versions: numbers that grow with every reading of the archive, over restarts and clocks that go back (pure).

A hybrid logical clock in microseconds since 1970: the database's clock, merged with all that was given out and seen. Its
bound lies ahead in the durable state, so that a program that was killed never gives a number twice.
"""

from __future__ import annotations

__all__ = ["FAR_AHEAD", "MAX_VERSION", "VersionClock"]

#: 63 bits: what a signed 64-bit column of an index holds.
MAX_VERSION = 2**63 - 1

#: A version so far ahead of the clock is a mistake of somebody's: a hundred years.
FAR_AHEAD = 100 * 365 * 86_400 * 1_000_000

#: How far the durable bound lies ahead, and when it is moved on, in microseconds. A program that begins anew waits for so
#: long with its first reading: else its numbers would be ahead of its readings, and what it held while frozen would win over
#: what another one read since.
AHEAD = 2_000_000
_MOVE_WHEN_LEFT = 1_000_000


class VersionClock:
    """Gives out versions. What holds always: each is greater than all before, and at most ``bound``, which is durable.

    ``bound`` is what the durable state says; 0: nothing was ever given out.
    """

    def __init__(self, bound: int = 0) -> None:
        self.last = bound
        self.bound = bound
        #: The highest that wasn't drawn: a first version has the moment of its row.
        self.recorded = 0
        self._asked = self._just_moved = False
        self._now = 0
        #: The bound of the program before, until a version is drawn.
        self._recalled = bound
        self._ended = False

    def wait_seconds(self, now: int) -> float:
        """How long until the clock has passed what a program before may have given out; then one may be drawn.

        0 when that lies farther ahead than any bound does: the clock went back, and nobody waits for that.
        """
        ahead = self._recalled - now
        return ahead / 1e6 if 0 < ahead <= AHEAD else 0.0

    def draw(self, now: int) -> int | None:
        """The next version, ``now`` being the database's clock; None when the bound must be moved first.

        None as well while there is something to wait for: see ``wait_seconds``.
        """
        if self.wait_seconds(now):
            return None
        self._recalled = 0
        self._now = now
        version = max(now, self.last + 1)
        if version > self.bound and self._just_moved:
            # A disk that takes longer than the bound lies ahead would never let one be drawn.
            version = max(self.bound, self.last + 1)
        self._just_moved = False
        if version > self.bound:
            self._asked = True
            return None
        self.last = version
        return version

    def took(self, version: int) -> None:
        """That is given to a first version, as its row was recorded."""
        self.saw(version)
        self.recorded = max(self.recorded, version)

    def saw(self, version: int) -> None:
        """Another version was seen: what is drawn from now on is greater, unless that one lies too far ahead."""
        if not self._now or version <= self._now + FAR_AHEAD:
            self.last = max(self.last, version)

    def wanted_bound(self, now: int) -> int | None:
        """The bound to be made durable; None while the present one will do.

        None as well while there is something to wait for: programs that are killed one after the other would move it on and
        on, until it lay farther ahead than anybody waits for.
        """
        if self._ended or self.wait_seconds(now):
            return None
        ahead = max(now, self.last)
        return ahead + AHEAD if self.bound - ahead < _MOVE_WHEN_LEFT else None

    def end(self) -> int:
        """Nothing is drawn any more: the bound to be made durable, so that who begins next needn't wait."""
        self._ended = True
        self.bound = self.last
        return self.last

    def bounded(self, bound: int) -> None:
        """That bound is durable."""
        if not self._ended:
            self.bound = max(self.bound, bound)
        self._just_moved, self._asked = self._asked, False

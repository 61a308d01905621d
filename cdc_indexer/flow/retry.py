"""When to try again, as a value: nothing here sleeps or asks the clock."""

from __future__ import annotations

import random
from typing import NamedTuple

__all__ = ["Backoff"]


class Backoff(NamedTuple):
    """Exponential with full jitter: anything between nothing and the limit, which doubles up to the cap.

    The jitter keeps a hundred hospitals from coming back in step. Never changed: ``next`` makes the one for
    the attempt after this.
    """

    initial_seconds: float = 0.1
    cap_seconds: float = 30.0
    attempt: int = 0

    @property
    def limit_seconds(self) -> float:
        """The longest that ``delay`` can be."""
        # 2 to the power of a week of attempts doesn't fit a float.
        return min(self.cap_seconds, self.initial_seconds * 2.0 ** min(self.attempt, 64))

    def delay(self, rng: random.Random) -> float:
        """Seconds to wait before this attempt."""
        return rng.uniform(0.0, self.limit_seconds)

    def next(self) -> Backoff:
        """The one for the attempt after this."""
        return self._replace(attempt=self.attempt + 1)

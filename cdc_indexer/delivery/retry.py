"""When to try again, as values: nothing here sleeps or asks the clock."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace
from datetime import timezone
from email.utils import parsedate_to_datetime

__all__ = ["MAX_RETRY_AFTER_SECONDS", "Backoff", "parse_retry_after"]

#: A central index (or a clock that is wrong) can't silence us for longer with one answer.
MAX_RETRY_AFTER_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Backoff:
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
        return replace(self, attempt=self.attempt + 1)


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Seconds to wait that a ``Retry-After`` asks for, as a number or an HTTP date (RFC 9110, 10.2.3).

    ``now`` is in seconds since the epoch. None for an absent or unreadable header; never negative, and at
    most MAX_RETRY_AFTER_SECONDS.
    """
    if value is None:
        return None
    value = value.strip()
    if re.fullmatch(r"[0-9]{1,18}(\.[0-9]{0,18})?", value, re.ASCII):
        seconds = float(value)
    else:
        try:
            moment = parsedate_to_datetime(value)
            if moment.tzinfo is None:  # "-0000", and the old forms that name no zone: HTTP dates are UTC
                moment = moment.replace(tzinfo=timezone.utc)
            seconds = moment.timestamp() - now
        except (ValueError, OverflowError, TypeError, IndexError):
            return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)

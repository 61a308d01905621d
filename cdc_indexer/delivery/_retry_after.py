"""How long an index asks us to wait (pure)."""

from __future__ import annotations

import re
from datetime import timezone
from email.utils import parsedate_to_datetime

__all__ = ["MAX_RETRY_AFTER_SECONDS", "parse_retry_after"]

#: A central index (or a clock that is wrong) can't silence us for longer with one answer.
MAX_RETRY_AFTER_SECONDS = 3600.0


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

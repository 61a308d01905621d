"""Backoff and Retry-After are values: no clock, no sleep."""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_indexer.delivery._retry_after import MAX_RETRY_AFTER_SECONDS, parse_retry_after
from cdc_indexer.flow.retry import Backoff

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)


def test_the_limit_doubles_up_to_the_cap() -> None:
    backoff = Backoff(initial_seconds=0.1, cap_seconds=30.0)
    limits = []
    for _ in range(12):
        limits.append(backoff.limit_seconds)
        backoff = backoff.next()
    assert limits[:4] == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert limits[-1] == 30.0


@given(st.integers(min_value=0, max_value=10**9), st.integers())
def test_the_delay_is_anything_up_to_the_limit(attempt: int, seed: int) -> None:
    backoff = Backoff(attempt=attempt)
    assert 0.0 <= backoff.delay(random.Random(seed)) <= backoff.limit_seconds <= 30.0


def test_the_jitter_is_full() -> None:
    """Hospitals that lost the index at the same moment mustn't come back at the same moment."""
    rng = random.Random(1)
    delays = sorted(Backoff(attempt=20).delay(rng) for _ in range(1000))
    assert delays[0] < 1.0
    assert delays[-1] > 29.0
    assert 13.0 < delays[500] < 17.0


def test_a_policy_is_never_changed() -> None:
    backoff = Backoff()
    assert backoff.next() == Backoff(attempt=1)
    assert backoff == Backoff(attempt=0)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1e9", None),
        ("٣", None),
        ("0", 0.0),
        ("7", 7.0),
        (" 1.5 ", 1.5),
        ("999999999", MAX_RETRY_AFTER_SECONDS),
        ("9" * 400, None),
        ("Sun, 01 Mar 2026 12:00:30 GMT", 30.0),
        ("Sun, 01 Mar 2026 13:00:30 +0100", 30.0),
        ("Sunday, 01-Mar-26 12:00:30 GMT", 30.0),
        ("Sun Mar  1 12:00:30 2026", 30.0),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0.0),
        ("Sun, 01 Mar 2099 12:00:00 GMT", MAX_RETRY_AFTER_SECONDS),
        ("Sun, 99 Mar 2026 12:00:00 GMT", None),
    ],
)
def test_both_forms_of_retry_after(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW.timestamp()) == seconds


@given(st.text())
def test_no_text_breaks_it(value: str) -> None:
    seconds = parse_retry_after(value, NOW.timestamp())
    assert seconds is None or 0.0 <= seconds <= MAX_RETRY_AFTER_SECONDS


@given(st.integers(min_value=0, max_value=3600))
def test_what_a_server_formats_is_read(seconds: int) -> None:
    value = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert parse_retry_after(value, NOW.timestamp()) == seconds

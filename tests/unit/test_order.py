"""Which of those that wait are sent, and on how many slots."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from cdc_indexer.flow.gate import Gatekeeper
from cdc_indexer.flow.order import Order


def delivery(number: int, *, behind: bool) -> Any:
    return SimpleNamespace(key=str(number), body=b"{}", behind=behind, taken=False, epoch=0)


def order(concurrency: int, behind: int) -> Order:
    """Backfilled studies wait."""
    found = Order(Gatekeeper(60.0, concurrency, random.Random(1)), concurrency)
    for number in range(behind):
        found.submit(delivery(number, behind=True))
    return found


def taken(order: Order, now: float) -> list[str]:
    return [send.deliveries[0].key for send in order.take(now)[0]]


def test_a_backfill_alone_has_all_slots() -> None:
    assert len(taken(order(8, 20), 0.0)) == 8


def test_while_live_studies_come_a_backfill_leaves_one_slot_for_the_next() -> None:
    some = order(8, 20)
    some.submit(delivery(100, behind=False))
    assert taken(some, 10.0) == ["100", *map(str, range(6))]
    assert taken(some, 10.0) == []
    some.submit(delivery(101, behind=False))
    assert taken(some, 10.0) == ["101"], "without waiting for the write that frees the others"


def test_a_minute_after_the_last_live_study_a_backfill_has_all_slots_again() -> None:
    some = order(8, 20)
    some.submit(delivery(100, behind=False))
    assert len(taken(some, 10.0)) == 7
    assert taken(some, 69.0) == []
    assert len(taken(some, 71.0)) == 1


def test_live_studies_have_all_slots() -> None:
    some = order(8, 0)
    for number in range(20):
        some.submit(delivery(number, behind=False))
    assert len(taken(some, 10.0)) == 8


@pytest.mark.parametrize("now", [10.0, 30.0])
def test_a_single_slot_is_shared(now: float) -> None:
    some = order(1, 5)
    some.submit(delivery(100, behind=False))
    (send,), _ = some.take(10.0)
    assert send.deliveries[0].key == "100"
    send.final.append((send.deliveries[0], None))  # type: ignore[arg-type]
    some.release(send)
    assert taken(some, now) == ["0"]

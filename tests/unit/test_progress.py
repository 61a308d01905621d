"""The position never passes an unsettled row; known rows are nobody's twice."""

from __future__ import annotations

import random
from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from cdc_indexer.flow.progress import Progress
from cdc_indexer.model.position import Identity, Position
from cdc_indexer.state.checkpoint import Checkpoint

WHEN = datetime(2026, 3, 1, 12)


def fresh() -> Progress:
    return Progress(Checkpoint(identity=Identity("s", "d"), center="000", position=at(0)))


def at(offset: int) -> Position:
    return Position("bin.000001", offset)


@given(st.lists(st.integers(0, 4), max_size=20), st.integers(0, 2**32))
def test_the_position_is_the_end_of_the_last_transaction_with_all_before_it_settled(
    sizes: list[int], seed: int
) -> None:
    progress = fresh()
    rng = random.Random(seed)
    next_id = 1
    unsettled: dict[int, int] = {}  # id -> number of its transaction
    read = 0
    pending = list(enumerate(sizes, start=1))
    while pending or unsettled:
        if pending and (not unsettled or rng.random() < 0.5):
            number, size = pending.pop(0)
            for _ in range(size):
                assert progress.claim(next_id, streamed=True)
                unsettled[next_id] = number
                next_id += 1
            progress.end_transaction(at(number))
            read = number
        else:
            row_id = rng.choice(list(unsettled))
            progress.settle([(row_id, WHEN)])
            del unsettled[row_id]
        assert progress.position is not None
        expected = min(unsettled.values()) - 1 if unsettled else read
        # Transactions without rows of ours may be passed with the one before them, never before it.
        assert progress.position.offset <= expected or all(
            sizes[number - 1] == 0 for number in range(expected + 1, progress.position.offset + 1)
        )
        if not unsettled:
            assert progress.position.offset == read
    assert progress.claimed_count == 0


def test_a_row_that_the_audit_took_holds_the_transaction_that_brings_it_later() -> None:
    progress = fresh()
    assert progress.claim(1)
    assert not progress.claim(1, streamed=True)
    progress.end_transaction(at(10))
    assert progress.position == at(0)
    progress.settle([(1, WHEN)])
    assert progress.position == at(10)
    assert not progress.claim(1, streamed=True)


def test_rows_settled_inside_the_transaction_being_read_do_not_move_the_position() -> None:
    progress = fresh()
    for row_id in (1, 2):
        progress.claim(row_id, streamed=True)
        progress.settle([(row_id, WHEN)])
    assert progress.position == at(0)
    progress.end_transaction(at(10))
    assert progress.position == at(10)


def test_after_a_reconnect_rows_in_flight_belong_to_the_transaction_as_it_is_read_again() -> None:
    progress = fresh()
    progress.claim(1, streamed=True)
    progress.restart_stream(at(0))
    assert not progress.claim(1, streamed=True)
    progress.end_transaction(at(10))
    assert progress.position == at(0)
    progress.settle([(1, WHEN)])
    assert progress.position == at(10)


def test_until_waits_for_the_position_to_pass_what_would_be_forgotten() -> None:
    progress = fresh()
    progress.claim(1)
    progress.settle([(1, WHEN)])
    progress.propose_until(WHEN + timedelta(minutes=1), at(20))
    assert progress.is_settled(1)  # the stream may still bring it
    assert progress.until < WHEN
    progress.end_transaction(at(20))
    assert not progress.is_settled(1)
    assert progress.until == WHEN + timedelta(minutes=1)


def test_a_new_server_voids_a_proposed_until() -> None:
    progress = fresh()
    progress.propose_until(WHEN, at(20))
    progress.restart_stream(at(30), Identity("other", "d"))
    progress.end_transaction(at(40))
    assert progress.until < WHEN


def test_without_a_binlog_until_moves_at_once() -> None:
    progress = fresh()
    progress.propose_until(WHEN, None)
    assert progress.until == WHEN

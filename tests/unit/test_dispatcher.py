"""The dispatcher against a scripted central index: order, slots, the gate, giving up."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cdc_indexer.delivery.dispatcher import Delivery, Dispatcher
from cdc_indexer.flow.gate import Gate
from cdc_indexer.model.errors import Stopped
from cdc_indexer.model.outcome import Kind, Outcome
from tests.blocking import Client, Disk

ACCEPTED = Outcome(Kind.ACCEPTED, 201)
Answer = Callable[[str], Outcome]


class Index:
    """Answers as ``answer`` says, and remembers what was in flight together."""

    def __init__(self, answer: Answer = lambda body: ACCEPTED, seconds: float = 0.0) -> None:
        self.answer = answer
        self.seconds = seconds
        self.lock = threading.Lock()
        self.in_flight: dict[str, int] = defaultdict(int)
        self.most_in_flight = 0
        self.together = 0
        self.bodies: list[str] = []

    def post(self, body: bytes, idempotency_key: str, max_answer_bytes: int = 0) -> Outcome:
        text = body.decode()
        study = text.partition(":")[0]
        with self.lock:
            self.bodies.append(text)
            self.in_flight[study] += 1
            self.together += self.in_flight[study] > 1
            self.most_in_flight = max(self.most_in_flight, sum(self.in_flight.values()))
        time.sleep(self.seconds)
        outcome = self.answer(text)
        with self.lock:
            self.in_flight[study] -= 1
        return outcome

    def delete(self, study_iuid: str, idempotency_key: str) -> Outcome:
        raise AssertionError("not asked for")

    def close(self) -> None:
        pass


class Results:
    def __init__(self) -> None:
        self.all: list[tuple[str, Outcome]] = []

    def __call__(self, delivery: Delivery, outcome: Outcome) -> int:
        assert delivery.body is not None
        self.all.append((delivery.body.decode(), outcome))
        return len(self.all)

    def wait(self, count: int, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while len(self.all) < count:
            assert time.monotonic() < deadline, f"{len(self.all)} of {count}"
            time.sleep(0.005)


Start = Callable[..., Dispatcher]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Dispatcher] = []

    def make(index: Index, **options: Any) -> Dispatcher:
        options = {
            "durable": Disk(),
            "concurrency": 4,
            "give_up_seconds": 3600.0,
            "rng": random.Random(1),
            **options,
        }
        dispatcher = Dispatcher(lambda: Client(index), **options)
        dispatcher.start()
        started.append(dispatcher)
        return dispatcher

    yield make
    for dispatcher in started:
        dispatcher.stop()


def delivery(body: str, results: Results, **options: Any) -> Delivery:
    study = body.partition(":")[0]
    return Delivery(
        key=study,
        study_pk=1,
        study_iuid=study,
        idempotency_key=body,
        body=body.encode(),
        rows=(),
        first_version=True,
        finished=results,
        **options,
    )


def test_versions_of_one_study_are_never_in_flight_together_nor_out_of_order(start: Start) -> None:
    index, results = Index(seconds=0.001), Results()
    dispatcher = start(index)
    for version in range(20):
        for study in "abcdefgh":
            dispatcher.submit(delivery(f"{study}:{version}", results))
    results.wait(160)
    assert index.together == 0
    assert 1 < index.most_in_flight <= 4
    for study in "abcdefgh":
        assert [body for body, _ in results.all if body.startswith(study)] == [
            f"{study}:{n}" for n in range(20)
        ]


def test_a_slot_is_free_only_when_the_result_is_durable(start: Start) -> None:
    index, results, durable = Index(), Results(), threading.Event()
    dispatcher = start(index, concurrency=3, durable=Disk(lambda generation: durable.wait(20)))
    for number in range(10):
        dispatcher.submit(delivery(f"{number}:0", results))
    time.sleep(0.3)
    assert 1 <= len(index.bodies) <= 3
    durable.set()
    results.wait(10)


def test_a_write_frees_the_slots_of_its_own_results_only(start: Start) -> None:
    class Slow(Disk):
        def request(self, generation: int) -> None:
            pass

        def has_written(self, generation: int) -> None:
            self._written(generation)

    index, results, disk = Index(), Results(), Slow()
    dispatcher = start(index, concurrency=2, durable=disk)
    for number in range(4):
        dispatcher.submit(delivery(f"{number}:0", results))
    for written in (0, 1, 2):
        disk.has_written(written)
        results.wait(2 + written)
        time.sleep(0.1)
        assert len(index.bodies) == 2 + written


def test_the_queue_is_bounded(start: Start) -> None:
    gate = threading.Event()

    def answer(body: str) -> Outcome:
        gate.wait(20)
        return ACCEPTED

    results = Results()
    dispatcher = start(Index(answer), queue_limit=10)
    submitted = []

    def submit() -> None:
        for number in range(50):
            dispatcher.submit(delivery(f"{number}:0", results))
            submitted.append(number)

    thread = threading.Thread(target=submit)
    thread.start()
    time.sleep(0.2)
    assert len(submitted) == 10
    gate.set()
    thread.join(20)
    results.wait(50)


def test_what_is_behind_goes_last(start: Start) -> None:
    first = threading.Event()

    def answer(body: str) -> Outcome:
        first.wait(20)
        return ACCEPTED

    index, results = Index(answer), Results()
    dispatcher = start(index, concurrency=1)
    dispatcher.submit(delivery("x:0", results))
    for number in range(5):
        dispatcher.submit(delivery(f"old{number}:0", results, behind=True))
    for number in range(5):
        dispatcher.submit(delivery(f"live{number}:0", results))
    first.set()
    results.wait(11)
    assert [body[0] for body in index.bodies] == ["x", *"lllll", *"ooooo"]


def test_an_index_that_is_away_is_tried_by_one_at_a_time_and_nothing_is_lost(start: Start) -> None:
    away = threading.Event()
    away.set()
    gates: list[Gate] = []

    def answer(body: str) -> Outcome:
        return Outcome(Kind.RETRY_INDEX, reason="away") if away.is_set() else ACCEPTED

    index, results = Index(answer), Results()
    dispatcher = start(index, on_gate=lambda gate, reason: gates.append(gate))
    for number in range(30):
        dispatcher.submit(delivery(f"{number}:0", results))
    time.sleep(1.0)
    # 4 senders, then one at a time with a growing pause: not thousands.
    assert len(index.bodies) < 30
    assert dispatcher.gate is Gate.AWAY
    away.clear()
    results.wait(30)
    assert gates == [Gate.AWAY, Gate.OPEN]


def test_while_held_the_files_are_read_before_each_try_and_the_tries_rotate(start: Start) -> None:
    mended, read = threading.Event(), []

    def answer(body: str) -> Outcome:
        return ACCEPTED if mended.is_set() else Outcome(Kind.HELD, 401, reason="bad key")

    index, results = Index(answer), Results()
    dispatcher = start(index, concurrency=1, before_probe=lambda: read.append(1))
    for number in range(3):
        dispatcher.submit(delivery(f"{number}:0", results))
    time.sleep(1.5)
    assert dispatcher.gate is Gate.HELD
    assert results.all == []
    assert len(read) >= len(index.bodies) - 1 > 2
    assert {"0:0", "1:0", "2:0"} <= set(index.bodies)
    mended.set()
    dispatcher.reconfigure(lambda: Client(index))
    results.wait(3, seconds=5)


def test_one_study_that_fails_alone_does_not_hold_the_others_and_is_given_up(start: Start) -> None:
    def answer(body: str) -> Outcome:
        return Outcome(Kind.RETRY_STUDY, 500, reason="failing") if body.startswith("odd") else ACCEPTED

    index, results = Index(answer), Results()
    dispatcher = start(index, give_up_seconds=0.5)
    dispatcher.submit(delivery("odd:0", results))
    for number in range(100):
        dispatcher.submit(delivery(f"{number}:0", results))
        time.sleep(0.02)
    results.wait(101)
    (given_up,) = [outcome for body, outcome in results.all if body == "odd:0"]
    assert given_up.kind is Kind.REJECTED
    assert dispatcher.gate is Gate.OPEN


def test_a_study_that_fails_while_nothing_is_accepted_is_never_given_up(start: Start) -> None:
    index, results = Index(lambda body: Outcome(Kind.RETRY_STUDY, 500, reason="failing")), Results()
    dispatcher = start(index, give_up_seconds=0.1)
    dispatcher.submit(delivery("odd:0", results))
    time.sleep(1.0)
    assert results.all == []
    assert len(index.bodies) > 2


def test_an_index_that_fails_on_every_study_is_taken_for_away(start: Start) -> None:
    index, results = Index(lambda body: Outcome(Kind.RETRY_STUDY, 500, reason="failing")), Results()
    dispatcher = start(index, concurrency=2)
    for number in range(200):
        dispatcher.submit(delivery(f"{number}:0", results))
    time.sleep(0.5)
    assert dispatcher.gate is Gate.AWAY
    assert len(index.bodies) < 40


def test_time_that_the_index_was_away_is_no_fault_of_a_study(start: Start) -> None:
    """After an outage with 5xx a study isn't parked for the first thing that goes wrong with it."""
    away = threading.Event()
    away.set()
    odd_answers = [Outcome(Kind.RETRY_STUDY, 500, reason="once more")]

    def answer(body: str) -> Outcome:
        if away.is_set():
            return Outcome(Kind.RETRY_STUDY, 502, reason="the proxy says so")
        return odd_answers.pop() if body.startswith("odd") and odd_answers else ACCEPTED

    results = Results()
    dispatcher = start(Index(answer), concurrency=2, give_up_seconds=1.0)
    for body in ("odd:0", "a:0", "b:0"):
        dispatcher.submit(delivery(body, results))
    time.sleep(1.5)
    assert dispatcher.gate is Gate.AWAY
    away.clear()
    results.wait(3, seconds=60)
    assert not odd_answers
    assert [outcome.kind for _, outcome in results.all] == [Kind.ACCEPTED] * 3


def test_retry_after_is_honoured(start: Start) -> None:
    times: list[float] = []

    def answer(body: str) -> Outcome:
        times.append(time.monotonic())
        if len(times) == 1:
            return Outcome(Kind.RETRY_INDEX, 429, retry_after_seconds=0.7, reason="busy")
        return ACCEPTED

    results = Results()
    start(Index(answer)).submit(delivery("a:0", results))
    results.wait(1)
    assert times[1] - times[0] >= 0.7


def test_stop_lets_what_is_in_flight_finish_and_sends_nothing_more() -> None:
    index, results = Index(seconds=0.2), Results()
    dispatcher = Dispatcher(lambda: Client(index), durable=Disk(), concurrency=1, give_up_seconds=1)
    dispatcher.start()
    for number in range(5):
        dispatcher.submit(delivery(f"{number}:0", results))
    time.sleep(0.1)
    dispatcher.stop()
    assert [body for body, _ in results.all] == index.bodies == ["0:0"]
    with pytest.raises(Stopped):
        dispatcher.submit(delivery("9:0", results))

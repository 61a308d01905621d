"""Many studies in one POST: what each answer means for each study, and what is put together."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cdc_indexer.delivery._meaning import classify
from cdc_indexer.flow.order import Delivery
from cdc_indexer.flow.verdict import Gate
from cdc_indexer.model.outcome import Kind, Outcome
from tests.blocking import Client, Disk
from tests.sending import Dispatcher, delivery_of, settings

Answer = Callable[[list[str]], tuple[int, Any]]


def all_accepted(studies: list[str]) -> tuple[int, Any]:
    return 201, {"status": "Ok"}


class Index:
    """Takes arrays; ``answer`` gets the studies of one and gives a status and a body."""

    def __init__(self, answer: Answer = all_accepted, seconds: float = 0.0) -> None:
        self.answer = answer
        self.seconds = seconds
        self.batches: list[list[str]] = []
        self.alone: list[str] = []
        self.keys: list[str] = []
        self.headers: list[str] = []
        self.deleted: list[str] = []

    def post(self, body: bytes, idempotency_key: str, max_answer_bytes: int = 0) -> Outcome:
        elements = json.loads(body)
        if isinstance(elements, dict):
            self.alone.append(elements["study"])
            status, said = self.answer([elements["study"]])
            return classify("POST", status, json.dumps(said).encode(), None, 0.0)
        studies = [element["study"] for element in elements]
        self.batches.append(studies)
        self.keys += [element["idempotency_key"] for element in elements]
        self.headers.append(idempotency_key)
        time.sleep(self.seconds)
        status, said = self.answer(studies)
        return classify("POST", status, json.dumps(said).encode(), None, 0.0)

    def delete(self, study_iuid: str, idempotency_key: str) -> Outcome:
        self.deleted.append(study_iuid)
        return Outcome(Kind.ACCEPTED, 200)

    def close(self) -> None:
        pass


class Results:
    def __init__(self) -> None:
        self.kinds: dict[str, Kind] = {}
        self.generation = 0

    def __call__(self, delivery: Delivery, outcome: Outcome) -> int:
        assert delivery.key not in self.kinds
        self.kinds[delivery.key] = outcome.kind
        self.generation += 1
        return self.generation

    def wait(self, count: int) -> None:
        deadline = time.monotonic() + 20
        while len(self.kinds) < count:
            assert time.monotonic() < deadline, f"{len(self.kinds)} of {count}"
            time.sleep(0.005)


Send = Callable[..., tuple[Results, Dispatcher]]


@pytest.fixture
def send(tmp_path: Path) -> Iterator[Send]:
    """Queues the studies while the index is still, then lets one sender go."""
    started: list[Dispatcher] = []

    def start(index: Index, studies: str, batch_size: int = 8, **options: Any) -> tuple[Results, Dispatcher]:
        results = Results()
        dispatcher = Dispatcher(
            settings(tmp_path, "http://127.0.0.1:1/", batch_size=batch_size),
            results,
            make_client=lambda: Client(index),
            **{"concurrency": 1, **options},
        )
        dispatcher.submit(
            *(
                delivery_of(study, None if study.isupper() else json.dumps({"study": study}).encode())
                for study in studies
            )
        )
        dispatcher.start()
        started.append(dispatcher)
        return results, dispatcher

    yield start
    for dispatcher in started:
        dispatcher.stop()


def test_what_waits_goes_together_and_nobody_waits_to_fill_a_batch(send: Send) -> None:
    index = Index()
    results, _ = send(index, "abcdefghijk", batch_size=8)
    results.wait(11)
    assert index.batches == [list("abcdefgh"), list("ijk")]
    assert index.keys == [f"key-{study}" for study in "abcdefghijk"]
    assert len(set(index.headers)) == 2
    assert set(results.kinds.values()) == {Kind.ACCEPTED}


def test_one_study_alone_is_an_array_too_and_goes_under_its_own_key(send: Send) -> None:
    index = Index()
    results, _ = send(index, "a")
    results.wait(1)
    assert (index.batches, index.headers) == ([["a"]], ["key-a"])


@pytest.mark.parametrize("named", [True, False], ids=["results", "bare list"])
def test_each_study_has_its_own_result(send: Send, named: bool) -> None:
    def answer(studies: list[str]) -> tuple[int, Any]:
        results = [{"status": 422, "reason": "bad"} if study == "b" else {"status": 201} for study in studies]
        return 207, {"results": results} if named else results

    index = Index(answer)
    results, dispatcher = send(index, "abcd")
    results.wait(4)
    assert results.kinds == {"a": Kind.ACCEPTED, "b": Kind.REJECTED, "c": Kind.ACCEPTED, "d": Kind.ACCEPTED}
    assert dispatcher.gate is Gate.OPEN
    assert len(index.batches) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_rejected_batch_is_halved_until_the_culprit_is_alone(send: Send, status: int) -> None:
    index = Index(lambda studies: (status, {}) if "f" in studies else (201, {}))
    results, _ = send(index, "abcdefgh")
    results.wait(8)
    assert [study for study, kind in results.kinds.items() if kind is Kind.REJECTED] == ["f"]
    assert index.batches == [
        list("abcdefgh"),
        list("abcd"),
        list("efgh"),
        ["e", "f"],
        ["e"],
        ["f"],
        ["g", "h"],
    ]
    assert index.alone == ["f"]


@pytest.mark.parametrize("status", [400, 409, 422])
def test_an_index_that_takes_no_arrays_gets_the_studies_one_by_one(send: Send, status: int) -> None:
    """Also where a number asks for arrays; nobody is parked for it."""
    index = Index()
    index.answer = lambda studies: (201, {}) if studies == index.alone[-1:] else (status, {})
    results, _ = send(index, "abcde")
    results.wait(5)
    assert set(results.kinds.values()) == {Kind.ACCEPTED}
    assert index.alone == list("abcde")


def test_a_study_that_the_index_fails_on_is_found_and_the_others_go_on(send: Send) -> None:
    index = Index(lambda studies: (500, {}) if "c" in studies else (201, {}))
    results, _ = send(index, "abcde", give_up_seconds=0.3)
    results.wait(4)
    assert "c" not in results.kinds
    assert index.batches[0] == list("abcde")
    assert all(len(batch) == 1 for batch in index.batches[1:])


def test_an_index_that_refuses_keeps_everything_waiting(send: Send) -> None:
    refused = threading.Event()
    refused.set()
    index = Index(lambda studies: (401, {}) if refused.is_set() else (201, {}))
    results, dispatcher = send(index, "abcd")
    deadline = time.monotonic() + 10
    while len(index.batches) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert dispatcher.gate is Gate.HELD
    # One study at a time tries.
    assert len(index.batches[1]) == 1
    assert not results.kinds
    refused.clear()
    dispatcher.mended()
    results.wait(4)


def test_a_batch_without_results_where_they_must_be_parks_nothing(send: Send) -> None:
    index = Index(lambda studies: (207, {"status": "Ok"}))
    results, dispatcher = send(index, "ab")
    deadline = time.monotonic() + 10
    while dispatcher.gate is not Gate.HELD:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not results.kinds


def test_an_index_that_says_error_for_one_study_holds_that_one(send: Send) -> None:
    gates: list[Gate] = []
    index = Index(lambda studies: (200, [{"status": "Error" if study == "b" else "Ok"} for study in studies]))
    results, _ = send(index, "abc", on_gate=lambda change: gates.append(change.gate))
    results.wait(2)
    deadline = time.monotonic() + 10
    while Gate.HELD not in gates:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert results.kinds == {"a": Kind.ACCEPTED, "c": Kind.ACCEPTED}


def test_a_deletion_goes_alone(send: Send) -> None:
    index = Index()
    results, _ = send(index, "abCde")
    results.wait(5)
    assert index.batches == [["a", "b"], ["d", "e"]]
    assert index.deleted == ["C"]


def test_one_durable_write_for_a_batch(send: Send) -> None:
    waited: list[int] = []
    results, _ = send(Index(), "abcdefghij", batch_size=5, durable=Disk(waited.append))
    results.wait(10)
    deadline = time.monotonic() + 10
    while len(waited) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert waited == [5, 10]

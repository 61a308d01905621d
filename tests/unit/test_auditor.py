"""The auditor's thread: started by the worker, ended by the main thread, at any time of each other."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cdc_indexer.jobs.auditor import Auditor
from cdc_indexer.jobs.feeder import Feeder
from cdc_indexer.state.requests import InitialRequest, ask


class Job:
    """What the two ask of a Runner."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.fail = pytest.fail


@pytest.fixture
def job() -> Any:
    return Job()


def audits() -> Any:
    """None is made in these tests."""
    return None


def living(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


@pytest.fixture
def slow_start(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A thread's start takes long, as it may on a busy machine; set once one has been asked for."""
    asked = threading.Event()
    start = threading.Thread.start

    def slow(thread: threading.Thread) -> None:
        if thread.name in ("auditor", "feeder"):
            asked.set()
            threading.Event().wait(0.2)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", slow)
    return asked


def test_a_stop_may_meet_the_start(job: Any, slow_start: threading.Event) -> None:
    auditor = Auditor(audits(), lambda: 3600, job, lambda found: None)
    worker = threading.Thread(target=auditor.start)
    worker.start()
    assert slow_start.wait(10)
    job.stopping.set()
    auditor.stop()
    worker.join()
    assert not living("auditor")


def test_it_isnt_started_once_the_job_is_to_end(job: Any) -> None:
    auditor = Auditor(audits(), lambda: 3600, job, lambda found: None)
    job.stopping.set()
    auditor.stop()
    auditor.start()
    assert not living("auditor")


def test_a_stop_may_meet_a_request_for_an_initial(
    job: Any, slow_start: threading.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine: Any = SimpleNamespace(settings=SimpleNamespace(state_dir=tmp_path))
    feeder = Feeder(engine, job)
    monkeypatch.setattr(feeder, "_feed", lambda request: job.stopping.wait(10))
    ask(tmp_path, InitialRequest(id="1"))
    worker = threading.Thread(target=feeder.look)
    worker.start()
    assert slow_start.wait(10)
    job.stopping.set()
    feeder.join()
    worker.join()
    assert not living("feeder")

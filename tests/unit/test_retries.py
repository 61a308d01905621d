"""Parked studies that go out again by themselves."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cdc_indexer.jobs.retries import Retries
from cdc_indexer.state.store import Store


def test_a_hold_that_comes_while_the_one_before_is_dealt_with_isn_t_forgotten(tmp_path: Path) -> None:
    Store(tmp_path).close()
    core = SimpleNamespace(parts=SimpleNamespace(results=SimpleNamespace(pending=False)))
    shared: Any = SimpleNamespace(
        settings=SimpleNamespace(state_dir=tmp_path), core=core, inside=lambda: contextlib.nullcontext(core)
    )
    retries = Retries(shared)
    done: list[float] = []

    def retry(since: float) -> None:
        done.append(since)
        if len(done) == 1:
            # By the thread that sends.
            retries.unpark(60)

    parked: Any = SimpleNamespace(retry_rejected_since=retry, requested=lambda limit: [])
    retries.studies = parked
    retries.unpark(60)
    retries.look()
    assert retries.pending
    retries.look()
    retries.look()
    assert len(done) == 2
    assert not retries.pending

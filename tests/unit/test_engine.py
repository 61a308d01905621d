"""What the engine says of itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cdc_indexer.flow.gate import Gate
from cdc_indexer.jobs.engine import Engine


@pytest.mark.parametrize(
    ("full", "storage_failing", "paused", "gate", "waits"),
    [
        (False, False, False, Gate.OPEN, False),
        (True, False, False, Gate.OPEN, True),
        (False, True, False, Gate.OPEN, True),
        (False, False, True, Gate.OPEN, True),
        (False, False, False, Gate.AWAY, True),
        (False, False, False, Gate.HELD, True),
    ],
)
def test_who_waits_for_others_is_not_stuck(
    full: bool, storage_failing: bool, paused: bool, gate: Gate, waits: bool
) -> None:
    """systemd's watchdog and /healthz ask: what starting again would mend is only what waits for nobody."""
    order = SimpleNamespace(gate=gate, paused=paused)
    engine: Any = SimpleNamespace(
        core=SimpleNamespace(room=lambda: not full, parts=SimpleNamespace(order=order)),
        storage_failing=storage_failing,
    )
    assert Engine.waits_for_others.fget(engine) is waits  # type: ignore[attr-defined]

"""What `initial` and `reconcile` say of how far they are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from cdc_indexer.flow.backfill import Counted
from cdc_indexer.monitor.progressbar import Progressbar


@pytest.fixture
def lines() -> Iterator[list[structlog.typing.EventDict]]:
    with structlog.testing.capture_logs() as found:
        yield found


def test_the_last_line_has_the_rate_of_the_whole(lines: list[structlog.typing.EventDict]) -> None:
    now = [0.0]
    with Progressbar(terminal=False, clock=lambda: now[0]) as bar:
        for second in range(101):
            now[0] = float(second)
            # All are sent in the first half; then it waits for the last answers.
            bar.show(Counted(min(second, 50) * 10, 0, 0, second, 100), second == 100)
    assert lines[-1]["event"] == "initial done"
    assert (lines[-1]["sent"], lines[-1]["per_second"]) == (500, 5)

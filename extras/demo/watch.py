"""How the studies arrive: a line each second while the demo runs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any


class Arrivals:
    """Which of the simulator's studies the index holds, and how long each took from its COMMIT.

    Both ends use the clock of this machine.
    """

    def __init__(self, committed_at: Mapping[str, float]) -> None:
        self._committed_at = committed_at
        self._delay_seconds: dict[str, float] = {}

    @property
    def count(self) -> int:
        return len(self._delay_seconds)

    @property
    def median_seconds(self) -> float | None:
        return statistics.median(self._delay_seconds.values()) if self._delay_seconds else None

    def add(self, studies: Iterable[Mapping[str, Any]]) -> None:
        """Studies as the index shows them; those that the simulator hasn't stored, and those known, don't count."""
        for study in studies:
            study_iuid = study["study_iuid"]
            committed_at = self._committed_at.get(study_iuid)
            if committed_at is not None and study_iuid not in self._delay_seconds:
                arrived_at = datetime.fromisoformat(study["first_received_at"]).timestamp()
                self._delay_seconds[study_iuid] = max(0.0, arrived_at - committed_at)

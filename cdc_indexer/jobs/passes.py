"""A pass over archive and index: what it came to, and why one is wanted (values)."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

from cdc_indexer.model.unfinished import ALL

__all__ = ["LAST_RESULT", "Pass", "Wanted", "scope_pk"]

#: In the durable state: what the last pass came to.
LAST_RESULT = "last_pass"


@dataclass(slots=True)
class Pass:
    """What a pass found and did; ``held`` is why nothing of it is sent, empty: it is."""

    #: Seconds since 1970; while it goes on, now.
    ended_at: float = 0.0
    compared: int = 0
    missing: int = 0
    stale: int = 0
    extra: int = 0
    kept: int = 0
    healed: int = 0
    #: Of these the index took the document, and has it otherwise all the same.
    refused: int = 0
    held: str = ""
    #: Whether the index itself was compared, by digests.
    index: bool = False
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """For the durable state, the report and `--json`; ``at`` is its end."""
        ended = datetime.fromtimestamp(self.ended_at or time.time(), timezone.utc)
        return {
            "at": ended.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "compared": self.compared,
            "equal": max(0, self.compared - self.missing - self.stale),
            "missing": self.missing,
            "stale": self.stale,
            "extra": self.extra,
            "kept": self.kept,
            "healed": max(0, self.healed - self.refused),
            "held": self.held,
            "index": self.index,
            "seconds": round(self.seconds, 1),
        }

    def state(self) -> dict[str, Any]:
        """For who goes on with it after a restart."""
        return asdict(self)

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Pass:
        """What ``state`` gave."""
        return cls(**state)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Why a pass is wanted; each wish has an id, so that a pass that began before it isn't taken for its own.

    ``doubt``: the index may have lost what the ledger says; only a pass that compares the index itself ends that.
    """

    reason: str
    doubt: str = ""
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    NAME = "pass_wanted"

    def to_json(self) -> dict[str, str]:
        """For the durable state."""
        return {"reason": self.reason, "doubt": self.doubt, "id": self.id}

    @classmethod
    def of(cls, content: object) -> Wanted | None:
        """What ``to_json`` gave."""
        if not isinstance(content, dict):
            return None
        return cls(*(str(content.get(name, "")) for name in ("reason", "doubt", "id")))

    def and_also(self, later: Wanted | None) -> Wanted:
        """Both."""
        if later is None:
            return self
        return Wanted(self.reason or later.reason, self.doubt or later.doubt, later.id)


def scope_pk(scope: object) -> int:
    """Above this study_pk a study that the ledger doesn't know is missing."""
    return scope if isinstance(scope, int) else 0 if scope == ALL else 2**63 - 1

"""What `check` finds: one precondition, whether it is met, and what to do if it isn't (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from cdc_indexer.model.errors import IndexerError

__all__ = ["Finding", "Status", "failed", "failed_by", "later", "ok", "warning", "worst_first"]


class Status(str, Enum):
    """How a precondition stands; only FAILED makes `check` exit with 1."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `check`.

    ``message`` is one sentence, ``remedy`` what to do about it: words, and below them what can be pasted as it is.
    """

    name: str
    status: Status
    message: str
    remedy: str = ""


def ok(name: str, message: str) -> Finding:
    return Finding(name, Status.OK, message)


def warning(name: str, message: str, remedy: str) -> Finding:
    return Finding(name, Status.WARNING, message, remedy)


def failed(name: str, message: str, remedy: str) -> Finding:
    return Finding(name, Status.FAILED, message, remedy)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Failures, warnings, what is well; each in the order in which things are set up."""
    order = (Status.FAILED, Status.WARNING, Status.OK)
    return sorted(findings, key=lambda finding: order.index(finding.status))


def later(name: str, after: str) -> Finding:
    """What can't be judged before another finding is mended."""
    return Finding(name, Status.WARNING, f"Not judged yet: `{after}` comes first.")


def failed_by(name: str, error: IndexerError) -> Finding:
    """An error of ours as a finding: its sentence is what happened, a colon, what to do."""
    message, colon, remedy = str(error).partition(": ")
    if not colon:
        return failed(name, message, "Mend that, and run `check` again.")
    return failed(name, f"{message}.", remedy[:1].upper() + remedy[1:])

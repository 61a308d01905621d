"""The settings that say what is sent (a value)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Policy"]


@dataclass(frozen=True, slots=True)
class Policy:
    """What is sent, and when.

    Attributes:
        fields: what is added to the eleven: name in the JSON -> column of the view.
        stable: nothing is sent before its study is quiet and has images.
        updates: the index takes further versions of a study; without them each study is sent once.
        deletes: the index is told of deletions.
        settle_seconds: a study is quiet when so long nothing of it was recorded.
        max_wait_seconds: what never is quiet is looked at so long after its first hint; infinite: not before it is quiet.
    """

    center: str
    fields: Mapping[str, str] = field(default_factory=dict)
    stable: bool = False
    updates: bool = True
    deletes: bool = False
    settle_seconds: float = 5.0
    max_wait_seconds: float = 60.0

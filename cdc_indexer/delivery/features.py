"""What is known of the central index at an address, learned from its answers and kept with the ``webservice_url`` (pure).

``Index-Features: versions, digests, reports, batch=500`` says what an index can. Only its own answers teach it, 2xx and
409: a page of a portal says nothing. One that is missing is forgotten after ten such answers in a row: proxies strip
headers now and then, and an index that is replaced bit by bit answers in turns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["LARGEST_BATCH", "Known", "parse_features"]

#: A feature is forgotten after so many answers in a row without it.
ANSWERS_WITHOUT = 10

#: With ``batch_size: "auto"`` no more go in one POST, however many the index takes.
LARGEST_BATCH = 100

#: An index that refuses so many arrays in a row gets none any more.
_REFUSALS = 3

_FEATURES = frozenset({"versions", "digests", "reports", "batch"})
_COUNT = re.compile(r"[1-9][0-9]{0,6}", re.ASCII)


def parse_features(header: str) -> dict[str, int]:
    """The features that are known to us; ``batch`` with its number, the others with 1."""
    found: dict[str, int] = {}
    for part in header.split(","):
        name, equals, value = (text.strip() for text in part.lower().partition("="))
        if name not in _FEATURES or bool(equals) != (name == "batch"):
            continue
        if not equals:
            found[name] = 1
        elif _COUNT.fullmatch(value):
            found[name] = int(value)
    return found


class Known:
    """What the answers of one address have taught; shared by all connections to it. Not thread-safe.

    ``json_seen``: its 2xx to a POST has been JSON. ``features``: as parse_features gives them. ``versions_seen``: it has
    said that it keeps versions. They are sent from then on: what doesn't know them leaves them alone, and what does would
    take a request without one for the newest. ``on_change`` is told when there is something new to be kept; ``as_dict`` is
    what to keep, ``of`` makes one of it again.
    """

    def __init__(
        self,
        *,
        json_seen: bool = False,
        features: Mapping[str, int] | None = None,
        versions_seen: bool = False,
        on_change: Callable[[Known], None] = lambda known: None,
    ) -> None:
        self.json_seen = json_seen
        self.features = dict(features or {})
        self.versions_seen = versions_seen or "versions" in self.features
        self.on_change = on_change
        self._missed: dict[str, int] = {}
        self._header = ""
        self._refusals = 0

    @classmethod
    def of(cls, kept: object) -> Known:
        """From what ``as_dict`` gave; whatever else it is teaches nothing."""
        if not isinstance(kept, dict):
            return cls()
        features = kept.get("features")
        told = (
            ", ".join(f"{name}={value}" if name == "batch" else str(name) for name, value in features.items())
            if isinstance(features, dict)
            else ""
        )
        return cls(
            json_seen=kept.get("json_seen") is True,
            features=parse_features(told),
            versions_seen=kept.get("versions_seen") is True,
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "json_seen": self.json_seen,
            "features": dict(sorted(self.features.items())),
            "versions_seen": self.versions_seen,
        }

    @property
    def versions_forgotten(self) -> bool:
        """It kept versions once, and hasn't said so for a while: what a plain 409 means is open again."""
        return self.versions_seen and "versions" not in self.features

    def answered_json(self) -> None:
        """A 2xx to a POST was JSON."""
        if not self.json_seen:
            self.json_seen = True
            self.on_change(self)

    def taught(self, header: str | None) -> None:
        """An answer of the index's own, 2xx or 409, had this Index-Features."""
        header = header or ""
        if header == self._header and not self._missed and (header or not self.features):
            return
        self._header = header
        before = dict(self.features)
        said = parse_features(header)
        self.features.update(said)
        self.versions_seen = self.versions_seen or "versions" in said
        for name in list(self.features):
            missed = 0 if name in said else self._missed.get(name, 0) + 1
            if missed >= ANSWERS_WITHOUT:
                del self.features[name]
            if missed == 0 or missed >= ANSWERS_WITHOUT:
                self._missed.pop(name, None)
            else:
                self._missed[name] = missed
        if self.features != before:
            self._refusals = 0
            self.on_change(self)

    # --- arrays ------------------------------------------------------------------------------------------

    @property
    def largest_batch(self) -> int:
        """How many studies the index takes in one POST of ours; 1: no arrays."""
        if self._refusals >= _REFUSALS:
            return 1
        return min(self.features.get("batch", 1), LARGEST_BATCH)

    def array_taken(self) -> None:
        """It took an array."""
        self._refusals = 0

    def array_refused(self) -> None:
        """It refused an array as such."""
        self._refusals += 1

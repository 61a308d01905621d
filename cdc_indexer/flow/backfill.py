"""A backfill's way through the archive: which of its studies are under way, and behind which all are done (passive)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from cdc_indexer.model.settled import IntervalSet

__all__ = ["Backfill", "Counted", "Ended", "Ticket"]


class Ended(Enum):
    """What became of one study of a backfill."""

    SENT = "sent"
    PARKED = "parked"
    #: Nothing had to be sent.
    SKIPPED = "skipped"


@dataclass(eq=False, slots=True)
class Ticket:
    """One study of a backfill, on its way."""

    backfill: Backfill
    study_pk: int

    def end(self, ended: Ended) -> None:
        """It is done with; once."""
        self.backfill.end(self.study_pk, ended)


class Backfill:
    """`initial`, a sweep, a reconciliation or `resend`: how far it is, for itself and for who takes it up after a restart.

    ``name`` is that of the command. ``state`` is what ``state`` gave before a restart, None at the beginning. What holds
    always: every study up to ``after_pk`` is done with, durably so once the state is.
    """

    def __init__(
        self, name: str, run: str, selection: Mapping[str, Any], state: Mapping[str, Any] | None = None
    ) -> None:
        self.name = name
        self.run = run
        self.selection = selection
        self.sent = self.parked = self.skipped = 0
        self.read_pk = 0
        self._open: dict[int, None] = {}
        self._ahead = IntervalSet()
        #: Whether there is something that the state doesn't hold yet.
        self.moved = True
        if state is not None:
            self.run = state["run"]
            self.read_pk = state["after_pk"]
            self._ahead = IntervalSet(state["ahead"])
            self.sent, self.parked, self.skipped = state["sent"], state["parked"], state["skipped"]

    @property
    def open(self) -> int:
        """How many studies are under way."""
        return len(self._open)

    @property
    def after_pk(self) -> int:
        """Behind this study_pk nothing is left to do."""
        return next(iter(self._open)) - 1 if self._open else self.read_pk

    def wants(self, study_pk: int) -> bool:
        """Whether this study isn't done with and not under way."""
        return study_pk not in self._ahead and study_pk not in self._open

    def begin(self, study_pk: int) -> Ticket:
        """That study is on its way; in the order of study_pk."""
        self._open[study_pk] = None
        self.read_pk = max(self.read_pk, study_pk)
        return Ticket(self, study_pk)

    def end(self, study_pk: int, ended: Ended) -> None:
        """That study is done with."""
        if study_pk not in self._open:
            return
        del self._open[study_pk]
        self._ahead.add(study_pk)
        if ended is Ended.SENT:
            self.sent += 1
        elif ended is Ended.PARKED:
            self.parked += 1
        else:
            self.skipped += 1
        self.moved = True

    def passed(self, study_pk: int) -> None:
        """Everything up to there was read, and what isn't under way needs nothing."""
        if study_pk > self.read_pk:
            self.read_pk = study_pk
            self.moved = True

    def state(self) -> dict[str, Any]:
        """For the durable state."""
        self.moved = False
        after_pk = self.after_pk
        self._ahead.remove(0, after_pk)
        return {
            "run": self.run,
            "selection": dict(self.selection),
            "after_pk": after_pk,
            "ahead": [list(pair) for pair in self._ahead],
            "sent": self.sent,
            "parked": self.parked,
            "skipped": self.skipped,
        }


class Counted(NamedTuple):
    """How far an `initial` came: studies accepted, parked and skipped, and where it is between two study_pks."""

    sent: int
    parked: int
    skipped: int
    at_pk: int
    last_pk: int

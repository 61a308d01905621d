"""The half of a pass that looks into the index: what it has otherwise than it should, and whether it has it right then."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from cdc_indexer.delivery.index_client import Range
from cdc_indexer.flow.case import Insist
from cdc_indexer.jobs.gone import Gone
from cdc_indexer.jobs.passes import Pass
from cdc_indexer.jobs.reconciliation import Difference, Reconciliation
from cdc_indexer.model import failpoints
from cdc_indexer.model.ledger import Entry

if TYPE_CHECKING:
    from cdc_indexer.jobs.engine import Engine

__all__ = ["LOOKS", "IndexHalf"]

log = structlog.get_logger("cdc_indexer")

#: So many ranges are looked at together, study by study: an index that lost everything doesn't fill the memory.
_TOGETHER = 10

#: A difference counts when two looks in a row show it; after so many looks what still moves is left to its own rows.
LOOKS = 4

#: So many studies that the index keeps otherwise than they were sent are remembered.
_MOST_STUBBORN = 1000

_STUBBORN = "stubborn"


class IndexHalf:
    """``send`` hints at studies and waits until they are settled; ``pause`` raises Stopped at the end."""

    def __init__(
        self,
        engine: Engine,
        reconciliation: Reconciliation,
        result: Pass,
        gone: Gone,
        *,
        report_only: bool,
        looks: int,
        pause: Callable[[float], None],
        send: Callable[[list[tuple[str, int]], Insist], None],
    ) -> None:
        self._engine = engine
        self._reconciliation = reconciliation
        self._result = result
        self._gone = gone
        self._report_only = report_only
        self._looks = looks
        self._pause = pause
        self._send = send
        known = engine.meta.get(_STUBBORN)
        #: The digest that a study should have had, of those that the index has kept otherwise after it took them.
        self._known: dict[str, str] = known if isinstance(known, dict) else {}
        self._stubborn: dict[str, str] = {}

    def heal(self, suspects: list[Range], counted: set[str]) -> None:
        """Ranges whose sum isn't what it should be. ``counted``: UIDs that count as different already."""
        for start in range(0, len(suspects), _TOGETHER):
            self._heal(suspects[start : start + _TOGETHER], set(counted))

    def remember(self, *, whole: bool) -> None:
        """After each part. ``whole``: it was a pass's last one, and nothing of that pass was seen by another process."""
        stubborn = self._stubborn if whole else {**self._known, **self._stubborn}
        if stubborn != (self._engine.meta.get(_STUBBORN) or {}):
            self._engine.remember(_STUBBORN, stubborn)

    def _heal(self, ranges: list[Range], counted: set[str]) -> None:
        done: set[str] = set()
        before: dict[str, Difference] = {}
        for look in range(self._looks):
            found: dict[str, Difference] = {}
            again: list[Range] = []
            confirmed: list[tuple[Range, Difference]] = []
            for one in ranges:
                self._pause(0.0)
                open_before = len(found)
                for difference in self._reconciliation.differences(one):
                    uid = difference.study_iuid
                    if uid in done or self._is_stubborn(difference):
                        done.add(uid)
                    elif before.get(uid) == difference:
                        confirmed.append((one, difference))
                        done.add(uid)
                    else:
                        found[uid] = difference
                if len(found) > open_before:
                    again.append(one)
            failpoints.hit("sweep_looked")
            self._deal(confirmed, counted)
            if not again or look == self._looks - 1:
                return
            before, ranges = found, again
            self._pause(self._engine.settings.delivery.quiet_seconds)

    def _deal(self, confirmed: list[tuple[Range, Difference]], counted: set[str]) -> None:
        engine, result = self._engine, self._result
        differing: list[tuple[str, int]] = []
        under_way: list[tuple[str, int]] = []
        for _, difference in confirmed:
            if difference.extra:
                # Counted once it is known to be gone.
                self._gone.add(Entry(difference.study_iuid, difference.study_pk, digest=difference.held))
            elif difference.study_iuid not in counted:
                result.missing += difference.held is None
                result.stale += difference.held is not None
            if self._report_only:
                continue
            named = difference.study_iuid, difference.study_pk
            corrected = engine.correct(*named, difference.held)
            if not difference.extra:
                (differing if corrected else under_way).append(named)
        if not (differing or under_way):
            return
        engine.flush()
        failpoints.hit("sweep_corrected")
        self._send(differing, Insist.NO)
        # Something came just now: what the ledger says of it isn't what the index has.
        self._send(under_way, Insist.RESEND)
        failpoints.hit("sweep_healed")
        self._look_for_stubborn(confirmed)

    def _look_for_stubborn(self, confirmed: list[tuple[Range, Difference]]) -> None:
        """What the index has taken and still has otherwise: it isn't sent again and again."""
        sent = {difference.study_iuid: difference.wanted for _, difference in confirmed}
        for one in dict.fromkeys(one for one, _ in confirmed):
            for difference in self._reconciliation.differences(one):
                uid, wanted = difference.study_iuid, difference.wanted
                if difference.held is None or wanted is None or sent.get(uid) != wanted:
                    continue
                if len(self._stubborn) < _MOST_STUBBORN:
                    self._stubborn[uid] = wanted.hex()
                self._result.refused += 1
                log.warning(
                    "the index keeps a study otherwise than it was sent: it isn't sent again until it changes",
                    study_pk=difference.study_pk,
                )

    def _is_stubborn(self, difference: Difference) -> bool:
        uid, wanted = difference.study_iuid, difference.wanted
        if difference.held is None or wanted is None or self._known.get(uid) != wanted.hex():
            return False
        if uid not in self._stubborn:
            self._stubborn[uid] = wanted.hex()
            self._result.stale += 1
        return True

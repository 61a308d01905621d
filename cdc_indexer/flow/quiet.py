"""Whether a study may go out with `send: stable`: quiet for long enough, by its rows in the table, and counted (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Protocol

from cdc_indexer.flow.versions import Waiting

#: A study whose images nobody has counted for so long goes out as it is.
UNCOUNTED_SECONDS = 86_400.0

#: Counts bring a row; should that be missing, the view is looked at this often.
_LOOK_AGAIN_SECONDS = 600.0


class View(Protocol):
    """What is read from the PACS."""

    def now(self) -> datetime:
        """The server's clock, naive UTC."""

    def newest_rows(self, study_pks: Sequence[int], since: datetime) -> dict[int, datetime]:
        """The newest recorded_at of each of these studies that has rows recorded after ``since``."""


@dataclass(frozen=True, slots=True)
class Quiet:
    """What is known at one moment, by the server's clock; see ``look``."""

    now: datetime
    newest: Mapping[int, datetime]
    quiet_seconds: float
    max_wait_seconds: float

    @classmethod
    def look(
        cls, view: View, study_pks: Sequence[int], quiet_seconds: float, max_wait_seconds: float
    ) -> Quiet:
        """Asks the table: what came while nobody listened, or hasn't been read yet, counts as well."""
        now = view.now()
        newest = view.newest_rows(study_pks, now - timedelta(seconds=quiet_seconds))
        return cls(now, newest, quiet_seconds, max_wait_seconds)

    def seconds_left(self, waiting: Waiting, values: Mapping[str, object] | None, *, crowded: bool) -> float:
        """For how long the study still has to wait; 0: it may go. ``crowded``: others wait for its place."""
        if waiting.deleted or not waiting.rows:
            return 0.0
        waited = (self.now - min(recorded_at for _, recorded_at in waiting.rows)).total_seconds()
        if waited >= self.max_wait_seconds:
            return 0.0
        left = self._unquiet_seconds(waiting.study_pk)
        if left <= 0 and uncounted(waiting, values) and not crowded:
            left = min(UNCOUNTED_SECONDS - waited, _LOOK_AGAIN_SECONDS)
        return max(0.0, min(left, self.max_wait_seconds - waited))

    def _unquiet_seconds(self, study_pk: int) -> float:
        newest = self.newest.get(study_pk)
        # A row of later than now was recorded before the server's clock went back.
        if newest is None or newest > self.now:
            return 0.0
        return self.quiet_seconds - (self.now - newest).total_seconds()


def uncounted(waiting: Waiting, values: Mapping[str, object] | None) -> bool:
    """Whether the archive has no image counted of a study that wasn't sent before, as far as is known.

    An archive that doesn't count at all says NULL.
    """
    return values is not None and values.get("study_instances") == 0 and waiting.digest is None


def age_seconds(recorded_at: datetime) -> float:
    """Since when a row is recorded, by this machine's clock; an estimate: the table is asked before anything is sent."""
    return (datetime.now(timezone.utc).replace(tzinfo=None) - recorded_at).total_seconds()

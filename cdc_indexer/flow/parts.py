"""What the core is made of; its rooms share it (a record)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from cdc_indexer.flow.cases import Cases
from cdc_indexer.flow.order import Order
from cdc_indexer.flow.patients import ChangedPatients
from cdc_indexer.flow.policy import Policy
from cdc_indexer.flow.progress import Progress
from cdc_indexer.flow.results import Results
from cdc_indexer.flow.settlement import Settlement
from cdc_indexer.model.version import VersionClock

__all__ = ["Parts"]


@dataclass(slots=True)
class Parts:
    """See the modules of the same names.

    Attributes:
        epoch: of the source; what was read in an earlier one decides nothing.
        rows_epoch: the one of the rows under way; rows of an earlier one may be another server's.
        stream_epoch: the one in which the stream began.
        believed: False while the index may have lost what the ledger says.
        hurry: nothing waits for quiet, since the program is to end once all is sent.
    """

    policy: Policy
    progress: Progress
    clock: VersionClock
    order: Order
    cases: Cases
    patients: ChangedPatients = field(default_factory=ChangedPatients)
    results: Results = field(init=False)
    settlement: Settlement = field(init=False)
    epoch: int = 0
    rows_epoch: int = 0
    stream_epoch: int = 0
    believed: bool = True
    hurry: bool = False
    #: Set by Intake.
    forget_rows: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.results = Results(self.progress, self.clock)
        self.settlement = Settlement(self.cases, self.progress, self.patients, self.results, self.order)

    def enter(self, epoch: int) -> None:
        """The source is in that epoch now, if it isn't past it already.

        Then the rows under way are forgotten, whichever server it is: a session may meet another one before a new stream
        begins there, and that a row isn't in its table doesn't say that it was pruned. Stream and audit bring them again.
        """
        if epoch > self.epoch:
            first, self.epoch = not self.epoch, epoch
            if not first:
                self.rows_epoch = epoch
                self.forget_rows()

    @property
    def early(self) -> bool:
        """Whether studies are looked at before they are quiet. Never where only one version of each is sent."""
        return not self.policy.stable and (self.hurry or self.cases.full)

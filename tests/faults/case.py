"""One case of the fault suite: an archive, an index, the program between them, and what was done to them."""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.load import Load
from tests.indexer import Indexer, wait_until
from tests.invariant import assert_index_equals_pacs, assert_nothing_lost, judge, parked_uids
from tests.pacs import Pacs, new_uid
from tests.receiver import Receiver
from tests.servers import Server

#: How many POSTs a kill may repeat (promise 2): delivery.concurrency.
CONCURRENCY = 8


def tear(path: Path, lost_bytes: int) -> None:
    """A file whose end is lost."""
    with path.open("r+b") as file:
        file.truncate(max(path.stat().st_size - lost_bytes, 0))


@dataclass
class Figures:
    """What the fault suite adds up for its report."""

    cases: int = 0
    faults: int = 0
    committed: int = 0
    lost: int = 0
    parked: int = 0
    repeated: int = 0
    bound: int = 0
    order_violations: int = 0


figures = Figures()


@dataclass
class Case:
    """What every test of this suite works with; ``finish`` is the invariant.

    Attributes:
        committed: every study_iuid that has to arrive.
        maybe: study_iuids whose commit the database died over; each arrives if the archive holds it.
        bound: how many POSTs may be repeated by what was done so far.
        faults: how many were injected.
    """

    pacs: Pacs
    receiver: Receiver
    indexer: Indexer
    committed: list[str] = field(default_factory=list)
    maybe: list[str] = field(default_factory=list)
    bound: int = 0
    faults: int = 0
    _others: list[Indexer] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)
    _seen_count: int = 0

    @property
    def server(self) -> Server:
        return self.pacs.server

    @property
    def accepted_uids(self) -> set[str]:
        """Of the studies that the index has taken."""
        accepted = self.receiver.accepted()
        for entry in accepted[self._seen_count :]:
            self._seen.update(entry.study_iuids)
        self._seen_count = len(accepted)
        return self._seen

    @property
    def parked(self) -> set[str]:
        return parked_uids(self.indexer.state_dir)

    def fault(self, count: int = 1, *, repeats: int = 0) -> None:
        """Counts faults; each may have this many POSTs repeated."""
        self.faults += count
        self.bound += count * repeats

    def start(self, *arguments: str, failpoint: str = "") -> None:
        """Starts `run` and waits until it follows the binlog."""
        self.indexer.start(*arguments, failpoint=failpoint)
        wait_until(lambda: self.indexer.caught_up, 60, "caught up")

    def start_under_load(self) -> None:
        """Starts `run` and waits until it is connected: it says that it is caught up in a quiet second only."""
        before = self.indexer.log.count("connected")
        self.indexer.start()
        wait_until(lambda: self.indexer.log.count("connected") > before, 60, "connected")

    def beside(self, *arguments: str) -> Indexer:
        """Another command of the same installation, in a process of its own."""
        other = copy.copy(self.indexer)
        other.process = None
        self._others.append(other)
        other.start(*arguments)
        return other

    def another_installation(self, directory: Path, url: str) -> Indexer:
        """The same settings and archive, another directory and index."""
        settings = {name: value for name, value in self.indexer.settings.items() if name != "webservice_url"}
        self._others.append(Indexer(directory, self.pacs, url, **settings))
        return self._others[-1]

    def close(self) -> None:
        """Ends whatever still runs."""
        for one in (self.indexer, *self._others):
            one.close()

    def kill(self) -> None:
        """SIGKILL to the indexer, wherever it is."""
        self.indexer.kill()
        self.fault(repeats=CONCURRENCY)

    def killed_at_failpoint(self, seconds: float = 60.0) -> None:
        """Waits until a failpoint has killed the indexer."""
        status = self.indexer.wait(seconds)
        assert status == -signal.SIGKILL, f"it ended with {status}:\n{self.indexer.log[-2000:]}"
        self.fault(repeats=CONCURRENCY)

    def store(self, count: int = 1) -> list[str]:
        """Stores studies, each in a transaction of its own. Returns their study_iuids."""
        stored = [new_uid() for _ in range(count)]
        for study_iuid in stored:
            self.pacs.store_study(study_iuid, patient_id="1-9", patient_name="NÚÑEZ^MARÍA")
        self.committed += stored
        return stored

    def load(self, **options: Any) -> Load:
        """An archive at work; give it to ``loaded`` when it has ended."""
        return Load(self.pacs, **options)

    def loaded(self, load: Load) -> None:
        """What that load has committed has to arrive."""
        self.committed += load.committed
        self.maybe += set(load.attempted) - set(load.committed)

    def arrives(self, study_iuids: Iterable[str], seconds: float = 30.0) -> None:
        """Waits until these were accepted."""
        wanted = set(study_iuids)
        wait_until(lambda: wanted <= self.accepted_uids, seconds, "these studies at the index")

    def at_work(self, load: Load, count: int = 10) -> None:
        """Waits until so many studies of that load have arrived."""
        wait_until(
            lambda: sum(uid in self.accepted_uids for uid in load.committed[:]) >= count,
            what=f"{count} studies of the load at the index",
        )

    def says(self, text: str, seconds: float = 30.0) -> None:
        """Waits until the log says so."""
        wait_until(lambda: text in self.indexer.log, seconds, f"'{text}' in the log")

    def finish(self, seconds: float = 60.0, *, equal: bool = True, two_sources: bool = False) -> None:
        """The invariant, once the running `run` has sent what is left; it is stopped gracefully, which repeats none.

        ``equal``: the archive still holds every study, and the last version sent of each has to equal it.
        ``two_sources``: `initial` has sent them as well.
        """
        held = {row[0] for row in self.pacs.execute("SELECT study_iuid FROM study")}
        wanted = set(self.committed) | (set(self.maybe) & held)
        if equal:
            missing = [uid for uid in self.committed if uid not in held]
            assert not missing, "the archive itself has lost what it said was committed"
        try:
            wait_until(lambda: wanted <= self.accepted_uids | self.parked, seconds, "all that was committed")
            if equal:
                wait_until(self._equal, 30, "the index equal to the archive")
        finally:
            self._count(wanted)
        assert self.indexer.process is not None
        assert self.indexer.process.poll() is None, f"it ended by itself:\n{self.indexer.log[-2000:]}"
        assert self.indexer.stop() == 0, self.indexer.log[-2000:]
        invented = self.accepted_uids - wanted - set(self.maybe)
        assert not invented, f"{len(invented)} were sent that nobody has committed"
        assert self.receiver.in_flight_together() == []
        assert "Traceback" not in self.indexer.log
        for secret in (self.indexer.settings["key"], self.indexer.settings["database"]["password"], "NÚÑEZ"):
            assert secret not in self.indexer.log
        assert_nothing_lost(
            self.receiver.accepted(),
            wanted,
            parked=self.parked,
            repeated_at_most=self.bound,
            two_sources=two_sources,
        )

    def _equal(self) -> bool:
        try:
            assert_index_equals_pacs(
                self.receiver.accepted(), self.pacs, self.indexer.center, parked=self.parked
            )
        except AssertionError:
            return False
        return True

    def _count(self, wanted: set[str]) -> None:
        verdict = judge(self.receiver.accepted(), wanted, self.parked)
        figures.cases += 1
        figures.faults += self.faults
        figures.committed += verdict.committed
        figures.lost += len(verdict.lost)
        figures.parked += verdict.parked
        figures.repeated += verdict.repeated
        figures.bound += self.bound
        figures.order_violations += verdict.order_violations


MakeCase = Callable[..., Case]

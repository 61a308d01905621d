"""``python -m benchmarks [CASE]...``: ours, a plain script and zongji on Node in turn, on private servers.

The results go to benchmarks/results; with QUICK=1, which takes a minute and shows that everything runs, to
benchmarks/results/quick. RUNS=5 does each five times instead of three, SCALE=0.2 a fifth as much of each; the CASES are
named below. BEFORE=DIRECTORY measures ours and another checkout of it in turn. CASES=region measures the central index
instead: region.py.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from benchmarks import archive_updates, converging, index, measurements, region, state, sweeping, triggers
from benchmarks.measurements import AnyReceiver, Figures
from benchmarks.receiver import NginxMissing, Receiver
from benchmarks.report import Report
from benchmarks.subjects import Before, Ours, PlainScript, Subject, Zongji
from cdc_indexer.model.settings import DatabaseSettings, StreamSettings
from cdc_indexer.source import catalogue
from cdc_indexer.source.binlog import BinlogReader
from cdc_indexer.source.source import Source
from tests.pacs import Pacs
from tests.servers import Server, ServerFailed, ServerUnavailable

_RESULTS = Path(__file__).resolve().parent / "results"

#: The one on which everything is measured, and another for what depends on the server.
_FIRST, _SECOND, _THIRD = "mariadb-10.11", "mysql", "mariadb-11.8"

_BOTH = (Ours.name, PlainScript.name)
_ALL = (*_BOTH, Zongji.name)
_OURS = (Ours.name,)

CASES = (
    "one-row",
    "big",
    "delay",
    "initial",
    "far",
    "idle",
    "busy",
    "reading",
    "triggers",
    "updates",
    "state",
    "sweep",
    "fed",
    "index",
    "features",
    "sizes",
)

#: Only when named: each takes a quarter of an hour or more.
EXTRA_CASES = ("million", "converge")


@dataclass(frozen=True)
class Sizes:
    """How much of each; the plain script gets no more than ``plain`` studies, its rate doesn't depend on how many."""

    runs: int
    delay: int
    one_row: int
    big: int
    far: int
    held: int
    busy: int
    idle_seconds: float
    reading: int
    triggers: int
    plain: int
    sizes: tuple[int, ...]
    away_ms: tuple[int, ...]
    state: int = 1_000_000

    def scaled(self, scale: float) -> Sizes:
        """A part of each."""
        names = (
            "delay",
            "one_row",
            "big",
            "far",
            "held",
            "busy",
            "idle_seconds",
            "reading",
            "triggers",
            "state",
        )
        less: dict[str, Any] = {name: max(10, int(getattr(self, name) * scale)) for name in names}
        return replace(self, **less)


_FULL = Sizes(
    3, 500, 10_000, 25_000, 1_000, 20_000, 300, 30.0, 20_000, 500, 2_000, (1_000, 100_000), (5, 20, 80)
)
_QUICK = Sizes(1, 50, 500, 1_000, 100, 1_000, 50, 3.0, 2_000, 50, 300, (), (20,), 20_000)


class Bench:
    """The cases on one server."""

    def __init__(
        self,
        server: Server,
        receiver: AnyReceiver,
        directory: Path,
        report: Report,
        sizes: Sizes,
        *,
        rival: bool = False,
    ) -> None:
        self._server = server
        self._receiver = receiver
        self._directory = directory
        self._report = report
        self._sizes = sizes
        self._number = 0
        self._rival = rival

    def run(self, case: str) -> None:
        """One of CASES or EXTRA_CASES."""
        getattr(self, case.replace("-", "_"))()

    def delay(self) -> None:
        count = self._sizes.delay

        def measure(make: Callable[[str], Subject], pacs: Pacs, name: str) -> Figures:
            figures, delays = measurements.delay(make, pacs, self._receiver, count)
            self._report.delays.setdefault(f"{name}, {self._server.flavour}", delays)
            return figures

        self._in_turn("a study each 20 ms", measure, subjects=_ALL)

    def one_row(self) -> None:
        self._backlog(f"{self._sizes.one_row:,} one-row transactions", self._sizes.one_row)

    def big(self) -> None:
        self._backlog(f"one transaction of {self._sizes.big:,} rows", self._sizes.big, one_transaction=True)

    def far(self) -> None:
        for milliseconds in self._sizes.away_ms:
            for concurrency in (8, 32):
                self._backlog(
                    f"index {milliseconds} ms away, concurrency {concurrency}",
                    self._sizes.far,
                    path=f"/far/{milliseconds}",
                    # The others have no concurrency.
                    subjects=_ALL if concurrency == 8 else _OURS,
                    concurrency=concurrency,
                )
        if isinstance(self._receiver, Receiver):
            self._backlog(
                "index 20 ms away, batch_size auto",
                self._sizes.one_row,
                path="/batches/20",
                subjects=_OURS,
                batch_size="auto",
            )

    def initial(self) -> None:
        for name, path, delivery in (
            ("initial", "/near", {}),
            ("initial, batch_size 500", "/near", {"batch_size": 500}),
            ("initial, index 20 ms away, concurrency 32", "/far/20", {"concurrency": 32}),
        ):
            self._in_turn(
                f"{name}, {self._sizes.held:,} studies",
                lambda make, pacs, _, path=path: measurements.initial(make, pacs, self._receiver, path=path),
                subjects=_OURS,
                filled=self._sizes.held,
                **delivery,
            )

    def busy(self) -> None:
        self._in_turn(
            "other tables change 2,000 times a second",
            lambda make, pacs, _: measurements.busy_neighbour(
                make, pacs, self._receiver, self._sizes.busy, 2_000
            ),
        )

    def idle(self) -> None:
        self._in_turn(
            "nothing happens",
            lambda make, pacs, _: measurements.idle(make, pacs, self._receiver, self._sizes.idle_seconds),
        )

    def reading(self) -> None:
        def measure(make: Callable[[str], Subject], pacs: Pacs, name: str) -> Figures:
            database = DatabaseSettings(
                host="127.0.0.1",
                port=pacs.server.port,
                user=pacs.user,
                password=SecretStr(pacs.password),
                name=pacs.name,
            )
            source = Source(database)
            with source.session() as session:
                position = catalogue.binlog_end(session)
                columns = catalogue.columns(session, pacs.name, "study_service")
            return measurements.reading_over_tcp(
                pacs,
                self._sizes.reading,
                lambda: BinlogReader(source, StreamSettings(), 4_711, position, columns),
            )

        self._in_turn(f"reading the log over TCP, {self._sizes.reading:,} rows", measure, subjects=_OURS)

    def triggers(self) -> None:
        for _ in range(self._sizes.runs):
            figures = triggers.cost(self._server, self._sizes.triggers)
            self._report.add(f"{self._server.flavour}: the triggers' cost", Ours.name, figures)

    def state(self) -> None:
        count = self._sizes.state
        for _ in range(self._sizes.runs):
            self._number += 1
            figures = state.measure(self._directory / str(self._number), count)
            self._report.add(f"the state, {count:,} studies in the ledger", Ours.name, figures)
        for held in (0, count):

            def measure(make: Callable[[str], Subject], pacs: Pacs, _: str, held: int = held) -> Figures:
                return measurements.backlog(
                    make,
                    pacs,
                    self._receiver,
                    1_000,
                    one_transaction=True,
                    prepared=lambda directory: state.fill(directory / "state", held),
                )

            self._in_turn(f"1,000 wait, {held:,} in the ledger", measure, subjects=_OURS)

    def sweep(self) -> None:
        count = self._sizes.state
        for _ in range(self._sizes.runs):
            self._number += 1
            figures = sweeping.measure(
                self._directory / str(self._number), self._server, self._receiver, count
            )
            self._report.add(
                f"{self._server.flavour}: a sweep of {count:,} equal studies", Ours.name, figures
            )

    def fed(self) -> None:
        for _ in range(self._sizes.runs):
            self._number += 1
            figures = sweeping.fed(
                self._directory / str(self._number), self._server, self._receiver, self._sizes.held
            )
            self._report.add(
                f"{self._server.flavour}: initial of {self._sizes.held:,} beside run", Ours.name, figures
            )

    def converge(self) -> None:
        self._number += 1
        converging.measure(
            self._directory / str(self._number),
            self._server,
            self._sizes.state,
            3 if self._sizes.runs == 1 else 10,
            lambda case, figures: self._report.add(f"{self._server.flavour}: {case}", Ours.name, figures),
        )

    def index(self) -> None:
        for _ in range(self._sizes.runs):
            for name, batch_size in (("singles", 1), ("batch_size auto", "auto")):
                self._number += 1
                pacs = Pacs.create(self._server)
                try:
                    figures = index.measure(
                        pacs,
                        self._directory / str(self._number),
                        self._sizes.held,
                        self._sizes.held,
                        batch_size,
                    )
                finally:
                    pacs.destroy()
                self._report.add(
                    f"{self._server.flavour}: to the reference index, {self._sizes.held:,}, {name}",
                    Ours.name,
                    figures,
                )

    def features(self) -> None:
        """The same work for an index with versions and reports and for one without, in alternating pairs."""
        pairs = [(Ours.name, "/versions"), ("without features", "/near")]

        def measure(case: str, of: Callable[[Callable[[str], Subject], Pacs, str], Figures]) -> None:
            for run in range(self._sizes.runs):
                for name, path in pairs if run % 2 == 0 else reversed(pairs):
                    self._number += 1
                    pacs = Pacs.create(self._server)
                    try:
                        makers = measurements.makers(
                            self._directory / str(self._number), pacs, self._receiver.url
                        )
                        figures = of(makers[Ours.name], pacs, path)
                    finally:
                        pacs.destroy()
                    self._report.add(f"{self._server.flavour}: {case}", name, figures)

        measure(
            "features: a study each 20 ms",
            lambda make, pacs, path: measurements.delay(
                make, pacs, self._receiver, self._sizes.delay, path=path
            )[0],
        )
        measure(
            f"features: {self._sizes.one_row:,} one-row transactions",
            lambda make, pacs, path: measurements.backlog(
                make, pacs, self._receiver, self._sizes.one_row, one_transaction=False, path=path
            ),
        )

    def updates(self) -> None:
        # 20,000 patients where 500 studies are stored to measure a trigger.
        for run in range(self._sizes.runs):
            # In alternating pairs: the one without triggers first, then the one with them.
            figures = archive_updates.cost(self._server, self._sizes.triggers * 40, with_first=run % 2 == 1)
            self._report.add(f"{self._server.flavour}: the archive's own updates", Ours.name, figures)

    def sizes(self) -> None:
        for count in self._sizes.sizes:
            self._backlog(f"backlog of {count:,} rows", count, one_transaction=True, subjects=_OURS, runs=1)

    def million(self) -> None:
        self._backlog(
            "one transaction of 1,000,000 rows", 1_000_000, one_transaction=True, subjects=_OURS, runs=1
        )

    # --- how they are run ------------------------------------------------------------------------------

    def _backlog(
        self,
        case: str,
        count: int,
        *,
        one_transaction: bool = False,
        path: str = "/near",
        subjects: tuple[str, ...] = _ALL,
        runs: int | None = None,
        **delivery: Any,
    ) -> None:
        def measure(make: Callable[[str], Subject], pacs: Pacs, name: str) -> Figures:
            some = min(count, self._sizes.plain) if name == PlainScript.name else count
            if path != "/near" and name in (PlainScript.name, Zongji.name):
                some = min(some, 100)
            return measurements.backlog(
                make, pacs, self._receiver, some, one_transaction=one_transaction, path=path
            )

        self._in_turn(case, measure, subjects=subjects, runs=runs, **delivery)

    def _there(self, subjects: tuple[str, ...]) -> Iterator[str]:
        """Where BEFORE names another checkout, that one in turn with ours alone."""
        if os.environ.get("BEFORE"):
            yield from (Ours.name, Before.name)
            return
        yield from (name for name in subjects if name != Zongji.name or self._rival)

    def _in_turn(
        self,
        case: str,
        measure: Callable[..., Figures],
        *,
        subjects: tuple[str, ...] = _BOTH,
        filled: int = 0,
        runs: int | None = None,
        **delivery: Any,
    ) -> None:
        for _ in range(runs or self._sizes.runs):
            for name in self._there(subjects):
                self._number += 1
                pacs = Pacs.create(self._server)
                try:
                    if filled:
                        measurements.store(pacs, filled, one_transaction=True)
                    makers = measurements.makers(
                        self._directory / str(self._number), pacs, self._receiver.url
                    )

                    def make(path: str, name: str = name) -> Subject:
                        return makers[name](path, **(delivery if name in (Ours.name, Before.name) else {}))  # noqa: B023

                    self._report.add(f"{self._server.flavour}: {case}", name, measure(make, pacs, name))
                finally:
                    pacs.destroy()


def run(
    cases: dict[str, tuple[str, ...]], receiver: AnyReceiver, directory: Path, sizes: Sizes, report: Report
) -> None:
    """Measures the cases of each flavour of server; what isn't there is left out and said."""
    rival = Zongji.available()
    for flavour, names in cases.items():
        if not names:
            continue
        try:
            server = Server.start_new(flavour)
        except (ServerUnavailable, ServerFailed) as error:
            print(f"{flavour} is left out: {error}", file=sys.stderr)
            continue
        try:
            bench = Bench(server, receiver, directory / flavour, report, sizes, rival=rival)
            for name in names:
                bench.run(name)
        finally:
            server.destroy()


def main(arguments: list[str]) -> int:
    """The exit status: 1 if nginx isn't there, nothing could be measured, or a subject failed."""
    quick = os.environ.get("QUICK", "") not in ("", "0")
    if arguments == ["region"]:
        return region.main(quick)
    unknown = set(arguments) - {*CASES, *EXTRA_CASES}
    if unknown:
        print(f"bench: no case {', '.join(sorted(unknown))}; there are {', '.join((*CASES, *EXTRA_CASES))}.")
        return 2
    sizes = _QUICK if quick else _FULL
    if os.environ.get("RUNS"):
        sizes = replace(sizes, runs=int(os.environ["RUNS"]))
    if os.environ.get("SCALE"):
        sizes = sizes.scaled(float(os.environ["SCALE"]))
    cases = {_FIRST: tuple(arguments) or CASES}
    if not quick:
        of_server = ("delay", "one-row", "big", "triggers", "updates")
        cases[_SECOND] = tuple(name for name in cases[_FIRST] if name in of_server)
        cases[_THIRD] = tuple(name for name in cases[_FIRST] if name == "updates")
    machine = (
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}; "
        f"load average at the start {os.getloadavg()[0]:.1f}; files in {tempfile.gettempdir()}"
    )
    results = _RESULTS / "quick" if quick else _RESULTS
    # A part of the cases doesn't replace the whole.
    results = results if not arguments or quick else results / "part"
    report = Report(machine, results)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # for nginx's worker
        try:
            receiver = Receiver(directory / "nginx")
        except NginxMissing as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
        try:
            run(cases, receiver, directory, sizes, report)
        except RuntimeError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
        finally:
            receiver.close()
    if not report.runs:
        return 1
    report.plot()
    print(f"\n{report.table()}\n\nWritten to {results}.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""``python -m benchmarks``: ours and the plain script in turn, on private servers; the results go to benchmarks/results.

QUICK=1 takes a minute or two and shows that everything runs; its figures say little.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import measurements, triggers
from benchmarks.receiver import NginxMissing, Receiver
from benchmarks.report import Report
from benchmarks.subjects import Ours, PlainScript, Subject
from tests.pacs import Pacs
from tests.servers import FLAVOURS, Server, ServerFailed, ServerUnavailable

_RESULTS = Path(__file__).resolve().parent / "results"


class Bench:
    """All cases on one server."""

    def __init__(
        self, server: Server, receiver: Receiver, directory: Path, report: Report, quick: bool
    ) -> None:
        self._server = server
        self._receiver = receiver
        self._directory = directory
        self._report = report
        self._quick = quick
        self._runs = 1 if quick else 3
        self._number = 0
        self._subject = ""

    def run(self, *, all_cases: bool) -> None:
        """With ``all_cases`` False only those that depend on the server."""
        few = self._quick
        self._in_turn("one study each 20 ms", self._delay(100 if few else 1_000))
        self._in_turn(
            f"{1_000 if few else 10_000:,} one-row transactions",
            lambda make, pacs: measurements.backlog(
                make, pacs, self._receiver, 1_000 if few else 10_000, one_transaction=False
            ),
        )
        big = 2_500 if few else 25_000
        self._in_turn(
            f"one transaction of {big:,} rows",
            lambda make, pacs: measurements.backlog(make, pacs, self._receiver, big, one_transaction=True),
        )
        if not all_cases:
            return
        far = 100 if few else 1_000
        for concurrency in (8, 32):
            self._in_turn(
                f"one-row transactions, index 20 ms away, concurrency {concurrency}",
                lambda make, pacs: measurements.backlog(
                    make, pacs, self._receiver, far, one_transaction=False, path="/far"
                ),
                # The plain script has no concurrency: once is enough.
                subjects=(Ours.name, PlainScript.name) if concurrency == 8 else (Ours.name,),
                concurrency=concurrency,
            )
        held = 2_000 if few else 20_000
        for name, path, delivery in (
            ("initial", "/near", {}),
            ("initial, batch_size 500", "/near", {"batch_size": 500}),
            ("initial, index 20 ms away, concurrency 32", "/far", {"concurrency": 32}),
        ):
            self._in_turn(
                f"{name}, {held:,} studies",
                lambda make, pacs, path=path: measurements.initial(make, pacs, self._receiver, path=path),
                subjects=(Ours.name,),
                filled=held,
                **delivery,
            )
        self._in_turn(
            "other tables change 2,000 times a second",
            lambda make, pacs: measurements.busy_neighbour(
                make, pacs, self._receiver, 100 if few else 500, 2_000
            ),
        )
        self._in_turn(
            "nothing happens",
            lambda make, pacs: measurements.idle(make, pacs, self._receiver, 5 if few else 60),
        )

    def triggers(self) -> None:
        for _ in range(self._runs):
            figures = triggers.cost(self._server, 100 if self._quick else 1_000)
            self._report.add(f"{self._server.flavour}: the triggers' cost", "with / without", figures)

    def _delay(self, count: int) -> Callable[..., measurements.Figures]:
        def measure(make: Callable[[str], Subject], pacs: Pacs) -> measurements.Figures:
            figures, delays = measurements.delay(make, pacs, self._receiver, count)
            self._report.delays.setdefault(f"{self._subject}, {self._server.flavour}", delays)
            return figures

        return measure

    def _in_turn(
        self,
        case: str,
        measure: Callable[..., measurements.Figures],
        *,
        subjects: tuple[str, ...] = (Ours.name, PlainScript.name),
        filled: int = 0,
        **delivery: object,
    ) -> None:
        for _ in range(self._runs):
            for name in subjects:
                self._subject = name
                self._number += 1
                pacs = Pacs.create(self._server)
                try:
                    if filled:
                        measurements.store(pacs, filled, one_transaction=True)
                    makers = measurements.makers(
                        self._directory / str(self._number), pacs, self._receiver.url
                    )

                    def make(path: str, name: str = name) -> Subject:
                        return makers[name](path, **(delivery if name == Ours.name else {}))  # noqa: B023

                    self._report.add(f"{self._server.flavour}: {case}", name, measure(make, pacs))
                finally:
                    pacs.destroy()


def main() -> int:
    """The exit status: 1 if a server or nginx isn't there, or a subject failed."""
    quick = os.environ.get("QUICK", "") not in ("", "0")
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    report = Report(machine)
    ran = 0
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        try:
            receiver = Receiver(directory / "nginx")
        except NginxMissing as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
        try:
            for flavour in FLAVOURS:
                try:
                    server = Server.start_new(flavour)
                except (ServerUnavailable, ServerFailed) as error:
                    print(f"{flavour} is left out: {error}", file=sys.stderr)
                    continue
                try:
                    bench = Bench(server, receiver, directory / flavour, report, quick)
                    if flavour != "mariadb-11.8":
                        bench.run(all_cases=ran == 0)
                    bench.triggers()
                    ran += 1
                finally:
                    server.destroy()
        except RuntimeError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
        finally:
            receiver.close()
    if not ran:
        return 1
    report.write(_RESULTS / "quick" if quick else _RESULTS)
    print(f"\n{report.table()}\n\nWritten to {_RESULTS}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

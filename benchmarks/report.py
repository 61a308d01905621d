"""The figures as a table (Markdown), as JSON, and as two plots."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measurements import Figures
from benchmarks.subjects import Ours


@dataclass
class Report:
    """Each run's figures by case and subject, as table.md and figures.json in ``directory``; what the machine is."""

    machine: str
    directory: Path
    runs: dict[str, dict[str, list[Figures]]] = field(default_factory=dict)
    #: Of the first run, in ms, by subject.
    delays: dict[str, list[float]] = field(default_factory=dict)

    def add(self, case: str, subject: str, figures: Figures) -> None:
        self.runs.setdefault(case, {}).setdefault(subject, []).append(figures)
        print(
            f"{case:<44} {subject:<14} "
            + "  ".join(f"{name} {value:,.2f}" for name, value in figures.items()),
            flush=True,
        )
        # At once: a benchmark that is stopped has measured something.
        self._write()

    def table(self) -> str:
        """Median, minimum and maximum of each figure; ours beside each other subject, with the ratio of the medians."""
        others = dict.fromkeys(name for one in self.runs.values() for name in one if name != Ours.name)
        head = ["case", "figure", Ours.name, *(cell for other in others for cell in (other, "ratio"))]
        lines = [f"| {' | '.join(head)} |", f"| {' | '.join(['---'] * len(head))} |"]
        for case, by_subject in self.runs.items():
            for name in by_subject[Ours.name][0]:
                cells = [case, name, _spread(mine := [figures[name] for figures in by_subject[Ours.name]])]
                for other in others:
                    theirs = [figures[name] for figures in by_subject.get(other, [])]
                    cells += [_spread(theirs), _ratio(mine, theirs)]
                lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def _write(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "table.md").write_text(f"{self.machine}\n\n{self.table()}\n")
        (self.directory / "figures.json").write_text(
            json.dumps({"machine": self.machine, "runs": self.runs}, indent=1)
        )

    def plot(self) -> None:
        """The plots, where matplotlib is there."""
        try:
            _plot_delays(self.delays, self.directory / "delay.svg")
            _plot_distance(self.runs, self.directory / "distance.svg")
        except ImportError:
            print("no plots: pip install '.[bench]'")


def _ratio(mine: Sequence[float], theirs: Sequence[float]) -> str:
    middle = statistics.median(theirs) if theirs else 0.0
    # What is nothing can't be compared with.
    return f"{statistics.median(mine) / middle:.2f}" if middle > 1e-6 else ""


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    middle = f"{statistics.median(values):,.2f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):,.2f} to {max(values):,.2f})"


def _plot_delays(delays: Mapping[str, Sequence[float]], path: Path) -> None:
    if not delays:
        return
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(7, 4))
    for subject, values in delays.items():
        ordered = sorted(values)
        # A hundred points say as much as a thousand, and the file stays small.
        shares = (*range(100), 99.5, 99.9, 100)
        points = [ordered[min(len(ordered) - 1, int(share / 100 * len(ordered)))] for share in shares]
        axes.plot(points, shares, label=subject)
    axes.set(xlabel="commit to arrival, ms", ylabel="% of the studies", xscale="log", ylim=(0, 101))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


_AWAY = re.compile(r"index (\d+) ms away, concurrency (\d+)")


def _plot_distance(runs: Mapping[str, Mapping[str, Sequence[Figures]]], path: Path) -> None:
    """Studies a second against the milliseconds that the index takes, a line for each subject."""
    lines: dict[str, dict[int, float]] = {}
    for case, by_subject in runs.items():
        found = _AWAY.search(case)
        if found is None:
            continue
        for subject, some in by_subject.items():
            name = f"{subject}, concurrency {found[2]}" if subject == Ours.name else subject
            rate = statistics.median(figures["studies/s"] for figures in some)
            lines.setdefault(name, {})[int(found[1])] = rate
    if not lines:
        return
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(7, 4))
    for name, points in lines.items():
        axes.plot(sorted(points), [points[away] for away in sorted(points)], marker="o", label=name)
    axes.set(xlabel="the index takes, ms", ylabel="studies a second", xscale="log", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _pyplot() -> Any:
    import matplotlib as mpl  # noqa: PLC0415 - takes a second, and the figures don't need it

    mpl.use("svg")
    mpl.rcParams["svg.fonttype"] = "none"  # text as text: a tenth of the size
    mpl.rcParams["svg.hashsalt"] = "cdc_indexer"
    from matplotlib import pyplot as plt  # noqa: PLC0415

    return plt

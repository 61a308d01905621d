"""The figures as a table (Markdown), as JSON, and as two plots."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measurements import Figures


@dataclass
class Report:
    """Each run's figures by case and subject; what the machine is."""

    machine: str
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

    def table(self) -> str:
        """Median, minimum and maximum of each figure; with two subjects also their ratio, ours to the plain script."""
        lines = ["| case | figure | cdc_indexer | plain script | ratio |", "| --- | --- | --- | --- | --- |"]
        for case, by_subject in self.runs.items():
            ours, *others = by_subject.values()
            for name in ours[0]:
                mine = [figures[name] for figures in ours]
                theirs = [figures[name] for figures in others[0]] if others else []
                ratio = statistics.median(mine) / max(statistics.median(theirs), 1e-9) if theirs else None
                lines.append(
                    f"| {case} | {name} | {_spread(mine)} | {_spread(theirs)} | {'' if ratio is None else f'{ratio:.2f}'} |"
                )
        return "\n".join(lines)

    def write(self, directory: Path) -> None:
        """table.md, figures.json, and the plots where matplotlib is there."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "table.md").write_text(f"{self.machine}\n\n{self.table()}\n")
        (directory / "figures.json").write_text(
            json.dumps({"machine": self.machine, "runs": self.runs}, indent=1)
        )
        _plot_delays(self.delays, directory / "delay.svg")
        _plot_distance(self.runs, directory / "distance.svg")


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    middle = f"{statistics.median(values):,.2f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):,.2f} to {max(values):,.2f})"


def _plot_delays(delays: Mapping[str, Sequence[float]], path: Path) -> None:
    import matplotlib as mpl  # noqa: PLC0415 - takes a second, and the figures don't need it

    mpl.use("svg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(7, 4))
    for subject, values in delays.items():
        ordered = sorted(values)
        share = [(number + 1) / len(ordered) * 100 for number in range(len(ordered))]
        axes.step(ordered, share, label=subject, where="post")
    axes.set(xlabel="commit to arrival, ms", ylabel="% of the studies", xscale="log", ylim=(0, 101))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _plot_distance(runs: Mapping[str, Mapping[str, Sequence[Figures]]], path: Path) -> None:
    from matplotlib import pyplot as plt  # noqa: PLC0415

    bars = [
        (f"{subject}\n{case}", statistics.median(figures["studies/s"] for figures in some))
        for case, by_subject in runs.items()
        if "one-row" in case
        for subject, some in by_subject.items()
    ]
    figure, axes = plt.subplots(figsize=(7, 0.6 * len(bars) + 1.2))
    axes.barh([name for name, _ in bars][::-1], [value for _, value in bars][::-1])
    axes.set(xlabel="studies a second", xscale="log")
    axes.grid(alpha=0.3, axis="x")
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)

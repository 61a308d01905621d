"""How findings are shown: a table on a terminal, plain lines elsewhere, JSON for machines."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import TextIO

from cdc_indexer.model.finding import Finding, Status
from cdc_indexer.monitor.terminal import printable

__all__ = ["as_json", "show"]

_STYLES = {Status.OK: "green", Status.WARNING: "yellow", Status.FAILED: "bold red"}
_NAME_WIDTH = 18


def as_json(findings: Iterable[Finding]) -> str:
    """An array of objects: name, status, message, remedy (null where there is nothing to do)."""
    return json.dumps(
        [
            {
                "name": finding.name,
                "status": finding.status.value,
                "message": finding.message,
                "remedy": finding.remedy or None,
            }
            for finding in findings
        ],
        ensure_ascii=False,
        indent=2,
    )


def show(findings: Sequence[Finding], stream: TextIO | None = None) -> None:
    """For people: a rich table on a terminal and the remedies below it, else a line each with its remedy indented."""
    stream = stream or sys.stdout
    if stream.isatty():
        _table(findings, stream)
    else:
        for finding in findings:
            stream.write(_line(finding) + "\n")
        stream.write(_sum(findings) + "\n")
    stream.flush()


def _line(finding: Finding) -> str:
    line = f"{finding.status.value:<8} {finding.name:<{_NAME_WIDTH}} {printable(finding.message)}"
    if not finding.remedy:
        return line
    remedy = printable(finding.remedy, keep="\n")
    return f"{line}\n{textwrap.indent(remedy, ' ' * 9)}"


def _table(findings: Sequence[Finding], stream: TextIO) -> None:
    from rich.console import Console  # noqa: PLC0415 - slow to import
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(file=stream, highlight=False)
    table = Table(box=None, show_header=False, padding=(0, 1))
    for finding in findings:
        # Text, not str: a bracket in it is no markup.
        table.add_row(
            Text(finding.status.value, _STYLES[finding.status]),
            Text(finding.name),
            Text(printable(finding.message)),
        )
    console.print(table)
    for finding in findings:
        if finding.remedy:
            console.print(Text(f"\n{finding.name}", _STYLES[finding.status]))
            # Not wrapped: what is to be pasted stays in one piece.
            console.print(Text(printable(finding.remedy, keep="\n")), soft_wrap=True)
    console.print(Text(f"\n{_sum(findings)}", style="bold"))


def _sum(findings: Sequence[Finding]) -> str:
    counts = {status: sum(finding.status is status for finding in findings) for status in Status}
    return ", ".join(f"{count} {status.value}" for status, count in counts.items())

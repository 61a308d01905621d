"""How findings are shown: a table on a terminal, plain lines elsewhere, JSON for machines."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

from cdc_indexer.model.finding import Finding, Status
from cdc_indexer.monitor.language import say
from cdc_indexer.monitor.terminal import printable

__all__ = ["as_json", "show"]

_STYLES = {Status.OK: "green", Status.WARNING: "yellow", Status.FAILED: "bold red"}
_NAME_WIDTH = 18
_STATUS_WIDTH = 8


def as_json(findings: Iterable[Finding], language: str = "en") -> str:
    """An array of objects: name, status, message, remedy (null where there is nothing to do).

    Names and statuses are the same in every language, for who reads them is a program.
    """
    return json.dumps(
        [
            {
                "name": finding.name,
                "status": finding.status.value,
                "message": say(finding.message, language),
                "remedy": say(finding.remedy, language) or None,
            }
            for finding in findings
        ],
        ensure_ascii=False,
        indent=2,
    )


def show(findings: Sequence[Finding], stream: TextIO | None = None) -> None:
    """For people: in colours and wrapped on a terminal, else a line each; each with its remedy below it."""
    stream = stream or sys.stdout
    if stream.isatty():
        _on_terminal(findings, stream)
    else:
        stream.writelines(_plain(findings))
        stream.write(_sum(findings) + "\n")
    stream.flush()


def _plain(findings: Sequence[Finding]) -> Iterator[str]:
    for finding, remedy in _with_remedies(findings):
        status, width = _status(finding.status)
        yield f"{status} {say(finding.name):<{_NAME_WIDTH}} {printable(say(finding.message))}\n"
        for line in remedy:
            yield f"{' ' * width} {line}\n"


def _status(status: Status) -> tuple[str, int]:
    """As it stands before a finding, and how wide that is."""
    width = max(_STATUS_WIDTH, *(len(say(one.value)) for one in Status))
    return f"{say(status.value):<{width}}", width


def _with_remedies(findings: Iterable[Finding]) -> Iterator[tuple[Finding, list[str]]]:
    """One remedy once: what mends several is said with the first of them."""
    said: dict[str, str] = {}
    for finding in findings:
        lines = printable(say(finding.remedy), keep="\n").splitlines()
        before = said.setdefault(finding.remedy, finding.name)
        if len(lines) > 1 and before != finding.name:
            lines = [say(f"As for {before}.")]
        yield finding, lines


def _on_terminal(findings: Sequence[Finding], stream: TextIO) -> None:
    from rich.console import Console  # noqa: PLC0415 - slow to import
    from rich.text import Text  # noqa: PLC0415

    console = Console(file=stream, highlight=False)
    margin = " " * (_status(Status.OK)[1] + 1)

    def wrapped(text: str) -> list[str]:
        return textwrap.wrap(
            text, max(console.width, 40) - len(margin), break_long_words=False, break_on_hyphens=False
        )

    for finding, remedy in _with_remedies(findings):
        # Text, not str: a bracket in it is no markup.
        first, *others = wrapped(f"{say(finding.name)}: {printable(say(finding.message))}")
        console.print(
            Text.assemble((f"{_status(finding.status)[0]} ", _STYLES[finding.status]), first),
            soft_wrap=True,
        )
        for line in others:
            console.print(Text(margin + line), soft_wrap=True)
        for line, is_words in _told_apart(remedy):
            # What is to be pasted stays in one piece, and stands at the edge, so that nothing else is marked with it.
            for part in wrapped(line) if is_words else [line]:
                console.print(Text((margin if is_words else "") + part), soft_wrap=True)
        if remedy:
            console.print()
    console.print(Text(_sum(findings), style="bold"))


def _told_apart(remedy: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Each line of a remedy, and whether it is words: what stands above others, is a sentence, or announces what follows."""
    for number, line in enumerate(remedy):
        yield line, line.endswith((":", ".")) or (number == 0 and len(remedy) > 1)


def _sum(findings: Sequence[Finding]) -> str:
    counts = {status: sum(finding.status is status for finding in findings) for status in Status}
    return ", ".join(f"{say(status.value)}: {count}" for status, count in counts.items())

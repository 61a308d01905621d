"""The commands `parked list`, `parked retry` and `parked discard`."""

# ruff: noqa: PLC0415 - imports inside the commands, as in cli.py
from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from cdc_indexer.cli.help import SpokenGroup
from cdc_indexer.cli.language import in_language, say
from cdc_indexer.model.errors import FatalError
from cdc_indexer.model.moment import for_people
from cdc_indexer.monitor.terminal import printable

if TYPE_CHECKING:
    from cdc_indexer.cli.files import Files
    from cdc_indexer.state.parked_studies import ParkedStudies, ParkedStudy

DONE, FAILED = 0, 1


@click.group(cls=SpokenGroup)
@in_language
def parked() -> None:
    """Studies that the central index rejected."""


@parked.command("list")
@in_language
@click.option("--show-answer", is_flag=True, help="Also what the index answered; it may hold patient data.")
@click.option(
    "--all", "closed", is_flag=True, help="Also those that were sent, superseded or discarded since."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def parked_list(files: Files, show_answer: bool, closed: bool, as_json: bool) -> None:
    """List them, oldest first."""
    from cdc_indexer.monitor.logs import Redact
    from cdc_indexer.state.parked_studies import ParkedStudies

    settings = files.load()
    state_dir = settings.state_dir
    # An index may repeat what it was sent, the headers too.
    hide = Redact(settings.secrets).hide
    count = 0
    if ParkedStudies.exists(state_dir):
        store = ParkedStudies(state_dir)
        try:
            for entry in store.entries(closed=closed):
                count += 1
                if count == 1 and not as_json:
                    click.echo(_in_columns(say(name) for name in _HEADER).upper())
                answer = hide(entry.answer) if show_answer else None
                click.echo(_as_json(entry, answer) if as_json else _as_line(entry, answer))
        finally:
            store.close()
    if not count and not as_json:
        click.echo(say("Nothing is parked."))


def _as_json(entry: ParkedStudy, answer: str | None) -> str:
    import json

    shown: dict[str, Any] = {
        "entry": entry.id,
        "state": entry.state.value,
        "study_pk": entry.study_pk,
        "study_iuid": entry.study_iuid,
        "operation": entry.operation,
        "status": entry.status,
        "reason": entry.reason,
        "parked_at": entry.parked_at,
        "outbox_ids": entry.outbox_ids,
        "idempotency_key": entry.idempotency_key,
    }
    if answer is not None:
        shown["answer"] = answer
    return json.dumps(shown)


_WIDTHS = (7, 11, 26, 17, 40, 9, 0)
_HEADER = ("entry", "state", "parked at", "study", "study_iuid", "HTTP", "reason")


def _in_columns(cells: Iterable[str]) -> str:
    """In one line; on a terminal, which may be 80 columns wide, UID and reason have lines of their own."""
    widths: tuple[int, ...] = _WIDTHS
    below: list[str] = []
    if sys.stdout.isatty():
        *cells, uid, status, reason = cells
        cells, widths, below = [*cells, status], (*_WIDTHS[:4], _WIDTHS[5]), [uid, reason]
    line = "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()
    return "\n".join(printable(one) for one in (line, *(f"        {one}" for one in below)))


def _state(entry: ParkedStudy) -> str:
    """One word; of one study, not of several."""
    return say(f"state {entry.state.value}").partition(" ")[2]


def _as_line(entry: ParkedStudy, answer: str | None) -> str:
    from datetime import datetime

    line = _in_columns(
        (
            f"{entry.id:>7}",
            _state(entry),
            # This machine's time, as a clock on the wall shows it; --json has the other.
            for_people(datetime.fromisoformat(entry.parked_at)),
            f"study_pk {entry.study_pk}",
            entry.study_iuid,
            say("not sent") if entry.status is None else str(entry.status),
            say(entry.reason),
        )
    )
    return f"{line}\n        {printable(answer)}" if answer else line


def _selected(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--all", "everything", is_flag=True, help="All of them.")(command)
    return click.argument("entries", nargs=-1, metavar="[ENTRY]...")(command)


def _wanted(store: ParkedStudies, entries: Iterable[str]) -> list[int]:
    """The numbers of the entries meant; a study_iuid stands for all entries of that study."""
    wanted: set[int] = set()
    for name in entries:
        if name.isdecimal():
            wanted.add(int(name))
            continue
        found = [entry.id for entry in store.entries() if entry.study_iuid == name]
        if not found:
            raise FatalError(f"Nothing of a study {printable(name)} is parked: `parked list` shows what is.")
        wanted.update(found)
    return sorted(wanted)


@parked.command("retry")
@in_language
@_selected
@click.pass_obj
def parked_retry(files: Files, entries: tuple[str, ...], everything: bool) -> int:
    """Send them again (without ENTRY all), unless something newer of their study was accepted since.

    ENTRY is a number that `parked list` shows, or a study_iuid.
    """
    from cdc_indexer.jobs.runner import hold_signals
    from cdc_indexer.model.changes import State
    from cdc_indexer.state.parked_studies import ParkedStudies

    if entries and everything:
        raise click.UsageError("--all is all of them: leave it out, or the entries.")
    hold_signals()
    settings = files.load()
    if not ParkedStudies.exists(settings.state_dir):
        click.echo(say("Nothing is parked."))
        return FAILED if entries else DONE
    store = ParkedStudies(settings.state_dir)
    try:
        wanted = _wanted(store, entries) if entries else None
        left_out = _tell_unfit(store, wanted)
        store.request_retry(wanted)
        marked = [entry.id for entry in store.requested(limit=-1)]
        if not marked:
            if wanted is None:
                click.echo(say("Nothing is parked that could be sent again."))
            return FAILED if left_out else DONE
        from cdc_indexer.jobs.retry_parked import retry_parked

        if not retry_parked(settings):
            click.echo(
                say(
                    f"{len(marked)} marked: the running `run` sends them; `parked list --all` shows the outcome."
                )
            )
            return FAILED if left_out else DONE
        states = [entry.state for entry in map(store.get, marked) if entry is not None]
    finally:
        store.close()
    counts = {state: states.count(state) for state in State}
    accepted, superseded = counts[State.ACCEPTED], counts[State.SUPERSEDED]
    again = counts[State.PARKED] + counts[State.RETRY]
    click.echo(say(f"{accepted} accepted, {superseded} superseded by something newer, {again} still parked."))
    return FAILED if again or left_out else DONE


@parked.command("discard")
@in_language
@_selected
@click.pass_obj
def parked_discard(files: Files, entries: tuple[str, ...], everything: bool) -> int:
    """Give them up and erase what is kept of them; the index will lack these versions.

    ENTRY is a number that `parked list` shows, or a study_iuid.
    """
    from cdc_indexer.state.parked_studies import ParkedStudies

    if bool(entries) == everything:
        raise click.UsageError("Name the entries that `parked list` shows, or say --all.")
    state_dir = files.load().state_dir
    if not ParkedStudies.exists(state_dir):
        click.echo(say("Nothing is parked."))
        return FAILED if entries else DONE
    store = ParkedStudies(state_dir)
    try:
        wanted = _wanted(store, entries) if entries else None
        count = store.discard(wanted)
    finally:
        store.close()
    click.echo(say(f"{count} discarded."))
    return DONE if wanted is None or count == len(wanted) else FAILED


def _tell_unfit(store: Any, wanted: list[int] | None) -> int:
    """Says which of the entries can't be sent again, and how many those are."""
    count = 0
    for number in wanted or ():
        entry = store.get(number)
        if entry is None:
            why = "isn't there"
        elif not entry.open:
            why = f"is {_state(entry)} already"
        elif not entry.sendable:
            why = "holds no document: mend the study in the PACS, or send it by `initial --study-iuid`"
        else:
            continue
        count += 1
        click.echo(say(f"Entry {number} {why}."), err=True)
    return count

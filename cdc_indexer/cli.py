"""The commands. Each imports what it needs when it is called: a service that is restarted must be back soon."""

# ruff: noqa: PLC0415 - imports inside the commands, on purpose
from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Callable, Iterable
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdc_indexer import __version__
from cdc_indexer.errors import ConfigError, FatalError, IndexerError

if TYPE_CHECKING:
    from cdc_indexer.config import Settings
    from cdc_indexer.delivery.parked import Entry, Parked

__all__ = ["main"]

DONE, FAILED, MISUSED = 0, 1, 2


def main() -> None:
    """The entry point: 0 done, 1 failed, 2 bad usage or configuration; what went wrong in one sentence on stderr."""
    # Whatever a library writes into the state directory is for our account alone.
    os.umask(0o077)
    sys.exit(_run())


def _run() -> int:
    # Where no Runner waits for signals, the polite ones end the command like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return cli.main(prog_name="cdc-indexer", standalone_mode=False) or DONE
    except click.UsageError as error:
        error.show()
        return MISUSED
    except click.ClickException as error:
        error.show()
        return FAILED
    except (KeyboardInterrupt, click.Abort):
        return DONE
    except BrokenPipeError:
        # Whoever read our output has seen enough; the interpreter would complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except IndexerError as error:
        click.echo(f"cdc-indexer: {error}", err=True)
        return MISUSED if isinstance(error, ConfigError) else FAILED
    except Exception as error:
        from cdc_indexer.monitor.logs import describe

        click.echo(f"cdc-indexer: unexpected error: {describe(error)}", err=True)
        _tell_frames(error)
        return FAILED


def _tell_frames(error: Exception) -> None:
    """The way to an unexpected error, without values, for who has set log.level to debug."""
    import structlog

    if structlog.is_configured():
        structlog.get_logger("cdc_indexer").debug("unexpected error", exc_info=error)


class _Stderr:
    """sys.stderr as it is at the moment of writing: a progress bar puts itself in front of it."""

    encoding = property(lambda self: sys.stderr.encoding)

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def isatty(self) -> bool:
        return sys.stderr.isatty()


class _Files:
    """The settings as config.json says now, and the log as they want it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._settings: Settings | None = None

    def load(self) -> Settings:
        """Reads the files; raises ConfigError."""
        from cdc_indexer.config import load_settings
        from cdc_indexer.monitor import logs

        settings = load_settings(self._path)
        old = self._settings
        if old is None or (old.log, old.secrets) != (settings.log, settings.secrets):
            logs.configure(settings.log, _Stderr(), secrets=settings.secrets)
        self._settings = settings
        return settings


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("config.json"),
    show_default=True,
    metavar="FILE",
    help="The settings; server.json is read from beside it.",
)
@click.version_option(__version__, prog_name="cdc-indexer")
@click.pass_context
def cli(context: click.Context, config: Path) -> None:
    """Tells a central index about every study of a DCM4CHEE PACS, the moment it is committed."""
    context.obj = _Files(config)


@cli.command()
@click.option("--until-caught-up", is_flag=True, help="Send what waits and exit (for cron).")
@click.pass_obj
def run(files: _Files, until_caught_up: bool) -> None:
    """Follow the binary log and send every study at once."""
    from cdc_indexer.runner import hold_signals

    hold_signals()
    settings = files.load()
    from cdc_indexer import service
    from cdc_indexer.monitor.watch import Watch

    watch = Watch(service=not until_caught_up)
    service.run(settings, until_caught_up=until_caught_up, reload=files.load, observer=watch)


_DAY = click.DateTime(["%Y-%m-%d"])


@cli.command()
@click.option("--since", type=_DAY, metavar="DATE", help="Only studies of this day (YYYY-MM-DD) or later.")
@click.option("--until", type=_DAY, metavar="DATE", help="Only studies of this day or earlier.")
@click.option(
    "--study-iuid", "study_iuids", multiple=True, metavar="UID", help="Only this study; may be repeated."
)
@click.option("--rate", type=float, metavar="N", help="At most so many studies a second.")
@click.option("--restart", is_flag=True, help="Begin again instead of going on where the last one stopped.")
@click.option("--dry-run", is_flag=True, help="Print what would be sent, as JSON lines; send nothing.")
@click.option(
    "--already-sent", is_flag=True, help="The index has them from the old client: send nothing, settle all."
)
@click.pass_obj
def initial(
    files: _Files,
    since: datetime | None,
    until: datetime | None,
    study_iuids: tuple[str, ...],
    rate: float | None,
    restart: bool,
    dry_run: bool,
    already_sent: bool,
) -> None:
    """Send the studies that the PACS already holds."""
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise click.BadParameter("must be more than 0.", param_hint="--rate")
    if since and until and since > until:
        raise click.UsageError("--since is later than --until: nothing lies between.")
    if dry_run and already_sent:
        raise click.UsageError("--dry-run settles nothing: leave it out, or leave out --already-sent.")
    if not dry_run:
        from cdc_indexer.runner import hold_signals

        hold_signals()
    settings = files.load()
    from cdc_indexer.initial import InitialOptions
    from cdc_indexer.initial import initial as send_held
    from cdc_indexer.monitor.progressbar import Progressbar

    options = InitialOptions(
        since=_day(since),
        until=_day(until),
        study_iuids=study_iuids,
        rate=rate,
        restart=restart,
        dry_run=dry_run,
        already_sent=already_sent,
    )
    with Progressbar() as progressbar:
        send_held(settings, options, progressbar.show)


def _day(moment: datetime | None) -> date | None:
    return moment.date() if moment else None


# --- check -----------------------------------------------------------------------------------------------


@cli.command()
@click.option(
    "--admin",
    metavar="USER",
    help="Also look at triggers and procedures, with this login of the database; asks for its password.",
)
@click.option("--json", "as_json", is_flag=True, help="A JSON array: name, status, message, remedy.")
@click.pass_obj
def check(files: _Files, admin: str | None, as_json: bool) -> int:
    """Look at everything that the service needs, and say what to do where it isn't as it should be."""
    settings = files.load()
    from cdc_indexer import check as checks
    from cdc_indexer.finding import Status
    from cdc_indexer.monitor import findings as shown

    administrator = None
    if admin is not None:
        from pydantic import SecretStr

        password = click.prompt(
            f"Password of {admin}", hide_input=True, default="", show_default=False, err=True
        )
        administrator = settings.database.model_copy(update={"user": admin, "password": SecretStr(password)})
    found = list(checks.check(settings, administrator))
    if as_json:
        click.echo(shown.as_json(found))
    else:
        shown.show(found)
    return FAILED if any(finding.status is Status.FAILED for finding in found) else DONE


# --- status ----------------------------------------------------------------------------------------------


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def status(files: _Files, as_json: bool) -> int:
    """Say how it stands: position, how far behind, delivered, parked, held, last error.

    Exit status 0 if it is healthy (parked studies alone don't change that), 1 if not.
    """
    from cdc_indexer.monitor import status as monitor_status

    report = monitor_status.report(files.load())
    if as_json:
        import json

        click.echo(json.dumps(report.to_json(), ensure_ascii=False, indent=1))
    else:
        headline = "healthy" if report.healthy else "not healthy"
        _show_status(
            report.state,
            headline,
            [one["message"] for one in report.problems] or [report.message],
            monitor_status.lines(report),
        )
    return DONE if report.healthy else FAILED


def _show_status(state: str, headline: str, messages: list[str], pairs: list[tuple[str, str]]) -> None:
    if not sys.stdout.isatty():
        for name, value in [("state", headline), *(("", message) for message in messages), *pairs]:
            click.echo(_printable(f"{name:<15} {value}"))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colour = {"ok": "green", "warning": "yellow"}.get(state, "red")
    console = Console(highlight=False)
    console.print(Text(headline, style=f"bold {colour}"))
    for message in messages:
        console.print(Text(_printable(message)))
    table = Table.grid(padding=(0, 2))
    for name, value in pairs:
        table.add_row(Text(name, style="dim"), Text(_printable(value)))
    console.print()
    console.print(table)


# --- parked ----------------------------------------------------------------------------------------------


@cli.group()
def parked() -> None:
    """Studies that the central index rejected."""


@parked.command("list")
@click.option("--show-answer", is_flag=True, help="Also what the index answered; it may hold patient data.")
@click.option(
    "--all", "closed", is_flag=True, help="Also those that were sent, superseded or discarded since."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def parked_list(files: _Files, show_answer: bool, closed: bool, as_json: bool) -> None:
    """List them, oldest first."""
    from cdc_indexer.delivery.parked import Parked

    state_dir = files.load().state_dir
    count = 0
    if Parked.exists(state_dir):
        store = Parked(state_dir, create=False)
        try:
            for entry in store.entries(closed=closed):
                count += 1
                click.echo(_as_json(entry, show_answer) if as_json else _as_line(entry, show_answer))
        finally:
            store.close()
    if not count and not as_json:
        click.echo("Nothing is parked.")


def _as_json(entry: Entry, show_answer: bool) -> str:
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
    if show_answer:
        shown["answer"] = entry.answer
    return json.dumps(shown)


def _as_line(entry: Entry, show_answer: bool) -> str:
    status = "not sent" if entry.status is None else str(entry.status)
    parts = [
        f"{entry.id:>6}",
        f"{entry.state.value:<10}",
        entry.parked_at,
        f"study_pk {entry.study_pk}",
        entry.study_iuid,
        status,
        entry.reason,
    ]
    line = _printable("  ".join(parts))
    return f"{line}\n        {_printable(entry.answer)}" if show_answer and entry.answer else line


def _printable(text: str) -> str:
    """Without the escape sequences by which an answer could play tricks on a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def _selected(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--all", "everything", is_flag=True, help="All of them.")(command)
    return click.argument("entries", nargs=-1, metavar="[ENTRY]...")(command)


def _wanted(store: Parked, entries: Iterable[str]) -> list[int]:
    """The numbers of the entries meant; a study_iuid stands for all entries of that study."""
    wanted: set[int] = set()
    for name in entries:
        if name.isdecimal():
            wanted.add(int(name))
            continue
        found = [entry.id for entry in store.entries() if entry.study_iuid == name]
        if not found:
            raise FatalError(f"Nothing of a study {_printable(name)} is parked: `parked list` shows what is.")
        wanted.update(found)
    return sorted(wanted)


@parked.command("retry")
@_selected
@click.pass_obj
def parked_retry(files: _Files, entries: tuple[str, ...], everything: bool) -> int:
    """Send them again (without ENTRY all), unless something newer of their study was accepted since.

    ENTRY is a number that `parked list` shows, or a study_iuid.
    """
    from cdc_indexer.delivery.parked import Parked, State
    from cdc_indexer.runner import hold_signals

    if entries and everything:
        raise click.UsageError("--all is all of them: leave it out, or the entries.")
    hold_signals()
    settings = files.load()
    if not Parked.exists(settings.state_dir):
        click.echo("Nothing is parked.")
        return FAILED if entries else DONE
    store = Parked(settings.state_dir, create=False)
    try:
        wanted = _wanted(store, entries) if entries else None
        left_out = _tell_unfit(store, wanted)
        store.request_retry(wanted)
        marked = [entry.id for entry in store.requested(limit=-1)]
        if not marked:
            if wanted is None:
                click.echo("Nothing is parked that could be sent again.")
            return FAILED if left_out else DONE
        from cdc_indexer import service

        if not service.retry_parked(settings):
            click.echo(
                f"{len(marked)} marked: the running `run` sends them; `parked list --all` shows the outcome."
            )
            return FAILED if left_out else DONE
        states = [entry.state for entry in map(store.get, marked) if entry is not None]
    finally:
        store.close()
    counts = {state: states.count(state) for state in State}
    again = counts[State.PARKED] + counts[State.RETRY]
    click.echo(
        f"{counts[State.ACCEPTED]} accepted, {counts[State.SUPERSEDED]} superseded by something newer, {again} still parked."
    )
    return FAILED if again or left_out else DONE


@parked.command("discard")
@_selected
@click.pass_obj
def parked_discard(files: _Files, entries: tuple[str, ...], everything: bool) -> int:
    """Give them up and erase what is kept of them; the index will lack these versions.

    ENTRY is a number that `parked list` shows, or a study_iuid.
    """
    from cdc_indexer.delivery.parked import Parked

    if bool(entries) == everything:
        raise click.UsageError("Name the entries that `parked list` shows, or say --all.")
    state_dir = files.load().state_dir
    if not Parked.exists(state_dir):
        click.echo("Nothing is parked.")
        return FAILED if entries else DONE
    store = Parked(state_dir, create=False)
    try:
        wanted = _wanted(store, entries) if entries else None
        count = store.discard(wanted)
    finally:
        store.close()
    click.echo(f"{count} discarded.")
    return DONE if wanted is None or count == len(wanted) else FAILED


def _tell_unfit(store: Any, wanted: list[int] | None) -> int:
    """Says which of the entries can't be sent again, and how many those are."""
    count = 0
    for number in wanted or ():
        entry = store.get(number)
        if entry is None:
            why = "isn't there"
        elif not entry.open:
            why = f"is {entry.state.value} already"
        elif not entry.sendable:
            why = "holds no document: mend the study in the PACS, or send it by `initial --study-iuid`"
        else:
            continue
        count += 1
        click.echo(f"Entry {number} {why}.", err=True)
    return count

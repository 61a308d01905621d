"""The commands. Each imports what it needs when it is called: a service that is restarted must be back soon."""

# ruff: noqa: PLC0415 - imports inside the commands, on purpose
from __future__ import annotations

import gc
import math
import os
import signal
import sys
from datetime import date, datetime
from pathlib import Path

import click

from cdc_indexer import __version__
from cdc_indexer.cli.files import Files
from cdc_indexer.cli.hand import pause, resend, resume, sql
from cdc_indexer.cli.help import SpokenGroup, misuse
from cdc_indexer.cli.language import asked, in_language, listen, say
from cdc_indexer.cli.parked import DONE, FAILED, parked
from cdc_indexer.cli.reconcile import reconcile
from cdc_indexer.model.errors import ConfigError, IndexerError

__all__ = ["main"]

MISUSED = 2

#: After so many new objects Python looks for cycles among them. We make hardly any, and with the usual 700 that takes 7 % of
#: the CPU of a backlog, and 10 % of starting; importing everything makes fewer than these.
_COLLECT_AFTER = 100_000

#: How long a thread computes while another waits for its turn. A live study waits that long for the pages of a backfill or a
#: sweep, at each of its steps: with the usual 5 ms for many milliseconds. No CPU and no rate could be told from it.
_TURN_SECONDS = 0.0001


def main() -> None:
    """The entry point: 0 done, 1 failed, 2 bad usage or configuration; what went wrong in one sentence on stderr."""
    # Whatever a library writes into the state directory is for our account alone.
    os.umask(0o077)
    # Nobody's plugins are to see our settings; it would also look for some in every package that is installed.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    sys.exit(_run())


def _run() -> int:
    gc.set_threshold(_COLLECT_AFTER, 10, 10)
    sys.setswitchinterval(_TURN_SECONDS)
    # Where no Runner waits for signals, the polite ones end the command like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    listen(sys.argv[1:])
    try:
        return cli.main(prog_name="cdc-indexer", standalone_mode=False) or DONE
    except click.UsageError as error:
        click.echo(misuse(error), err=True)
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
        click.echo(f"cdc-indexer: {say(str(error))}", err=True)
        return MISUSED if isinstance(error, ConfigError) else FAILED
    except Exception as error:
        from cdc_indexer.monitor.logs import describe

        click.echo(f"cdc-indexer: {say(f'unexpected error: {describe(error)}')}", err=True)
        _tell_frames(error)
        return FAILED


def _tell_frames(error: Exception) -> None:
    """The way to an unexpected error, without values, for who has set log.level to debug."""
    import structlog

    if structlog.is_configured():
        structlog.get_logger("cdc_indexer").debug("unexpected error", exc_info=error)


@click.group(
    cls=SpokenGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("config.json"),
    show_default=True,
    metavar="FILE",
    help="The settings; server.json is read from beside it.",
)
@click.version_option(__version__, prog_name="cdc-indexer")
@in_language
@click.pass_context
def cli(context: click.Context, config: Path) -> None:
    """Tells a central index about every study of a DCM4CHEE PACS, the moment it is committed."""
    context.obj = Files(config)


@cli.command()
@click.option("--until-caught-up", is_flag=True, help="Send what waits and exit (for cron).")
@click.option(
    "--same-index", is_flag=True, help="webservice_url has changed, but it is the index of before, moved."
)
@in_language
@click.pass_obj
def run(files: Files, until_caught_up: bool, same_index: bool) -> None:
    """Follow the binary log and send every study at once."""
    from cdc_indexer.jobs.runner import hold_signals

    hold_signals()
    settings = files.load()
    from cdc_indexer.jobs import run as service
    from cdc_indexer.monitor.watch import Watch

    # What was imported stays: nobody need look for cycles in it.
    gc.freeze()
    watch = Watch(service=not until_caught_up)
    service.run(
        settings,
        until_caught_up=until_caught_up,
        same_index=same_index,
        reload=files.load,
        observer=watch,
        summary=lambda: watch.report().to_json(),
    )


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
    "--already-sent",
    is_flag=True,
    help="The index has them from the old client: send none. A study that waits in study_service still goes out.",
)
@in_language
@click.pass_obj
def initial(
    files: Files,
    since: datetime | None,
    until: datetime | None,
    study_iuids: tuple[str, ...],
    rate: float | None,
    restart: bool,
    dry_run: bool,
    already_sent: bool,
) -> int:
    """Send the studies that the PACS already holds.

    Exit status 1 when none of those that --study-iuid names is in the archive.
    """
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise click.BadParameter("must be more than 0.", param_hint="--rate")
    if since and until and since > until:
        raise click.UsageError("--since is later than --until: nothing lies between.")
    if dry_run and already_sent:
        raise click.UsageError("--dry-run settles nothing: leave it out, or leave out --already-sent.")
    if not dry_run:
        from cdc_indexer.jobs.runner import hold_signals

        hold_signals()
    settings = files.load()
    from cdc_indexer.jobs.initial import InitialOptions, absent
    from cdc_indexer.jobs.initial import initial as send_held
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
    missing = absent(settings, study_iuids)
    for uid in missing:
        click.echo(say(f"{uid} isn't in the archive."), err=True)
    if study_iuids and len(missing) == len(study_iuids):
        click.echo(say("No study is sent: none of that is in the archive."), err=True)
        return FAILED
    with Progressbar() as progressbar:
        send_held(settings, options, progressbar.show)
    return DONE


def _day(moment: datetime | None) -> date | None:
    return moment.date() if moment else None


# --- check -----------------------------------------------------------------------------------------------


@cli.command()
@click.option(
    "--admin",
    metavar="USER",
    help="Also look at triggers and procedures, with this login of the database; asks for its password.",
)
@click.option("--index", is_flag=True, help="Only ask the central index: address, key, centre, what it can.")
@click.option("--json", "as_json", is_flag=True, help="A JSON array: name, status, message, remedy.")
@in_language
@click.pass_obj
def check(files: Files, admin: str | None, index: bool, as_json: bool) -> int:
    """Look at everything that the service needs, and say what to do where it isn't as it should be."""
    settings = files.load()
    from cdc_indexer.checks import all as checks
    from cdc_indexer.model.finding import Status, worst_first
    from cdc_indexer.monitor import findings as shown

    administrator = None
    if admin is not None:
        from pydantic import SecretStr

        password = click.prompt(
            say(f"Password of {admin}"), hide_input=True, default="", show_default=False, err=True
        )
        administrator = settings.database.model_copy(update={"user": admin, "password": SecretStr(password)})
    found = worst_first(checks.check_index(settings) if index else checks.check(settings, administrator))
    if as_json:
        click.echo(shown.as_json(found, asked() or "en"))
    else:
        shown.show(found)
    return FAILED if any(finding.status is Status.FAILED for finding in found) else DONE


# --- status ----------------------------------------------------------------------------------------------


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@in_language
@click.pass_obj
def status(files: Files, as_json: bool) -> int:
    """Say how it stands: position, how far behind, delivered, parked, held, last error.

    Exit status 0 if it is healthy (parked studies alone don't change that), 1 if not.
    """
    from cdc_indexer.monitor import status as monitor_status

    report = monitor_status.report(files.load())
    if as_json:
        import json

        click.echo(json.dumps(report.to_json(), ensure_ascii=False, indent=1))
    else:
        monitor_status.show(report)
    return DONE if report.healthy else FAILED


cli.add_command(parked)
cli.add_command(reconcile)
for command in (resend, pause, resume, sql):
    cli.add_command(command)

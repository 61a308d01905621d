"""What an administrator does by hand: `resend`, `pause`, `resume`, `sql`."""

# ruff: noqa: PLC0415 - imports inside the commands, as in __init__.py
from __future__ import annotations

import getpass
import re
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cdc_indexer.cli.help import SpokenCommand
from cdc_indexer.cli.language import in_language, say
from cdc_indexer.model.moment import for_people

if TYPE_CHECKING:
    from cdc_indexer.cli.files import Files

DONE, FAILED = 0, 1

_DAY = click.DateTime(["%Y-%m-%d"])
_SPAN = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
#: user@host, with nothing in it that would end a quoted name.
_ACCOUNT = re.compile(r"[^'\"`\\\s@]+@[^'\"`\\\s@]+")


@click.command(cls=SpokenCommand)
@click.option(
    "--study-iuid", "study_iuids", multiple=True, metavar="UID", help="This study; may be repeated."
)
@click.option(
    "--patient-id", "patient_ids", multiple=True, metavar="ID", help="All of this patient; may be repeated."
)
@click.option("--since", type=_DAY, metavar="DATE", help="Studies of this day (YYYY-MM-DD) or later.")
@click.option("--until", type=_DAY, metavar="DATE", help="Studies of this day or earlier.")
@click.option("--dry-run", is_flag=True, help="Only say which and how many; send nothing.")
@in_language
@click.pass_obj
def resend(
    files: Files,
    study_iuids: tuple[str, ...],
    patient_ids: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    dry_run: bool,
) -> int:
    """Send studies again, whatever the index was told of them before.

    Exit status 1 when one of the named studies isn't in the archive, or one was rejected.
    """
    if not (study_iuids or patient_ids or since or until):
        raise click.UsageError("Say which studies: --study-iuid, --patient-id, --since or --until.")
    if since and until and since > until:
        raise click.UsageError("--since is later than --until: nothing lies between.")
    from cdc_indexer.jobs.runner import hold_signals

    if not dry_run:
        hold_signals()
    settings = files.load()
    from cdc_indexer.jobs.alone import no_run_active
    from cdc_indexer.jobs.resend import ResendOptions, chosen, resend_alone
    from cdc_indexer.state import requests

    options = ResendOptions(
        study_iuids, patient_ids, since.date() if since else None, until.date() if until else None
    )
    found = chosen(settings, options)
    there = {uid for uid, _ in found}
    missing = [uid for uid in study_iuids if uid not in there]
    for uid in missing:
        click.echo(say(f"{uid} isn't in the archive."), err=True)
    if dry_run:
        for uid, study_pk in found:
            click.echo(say(f"study_pk {study_pk}  {uid}"))
        click.echo(say(f"{_studies(len(found))} would be sent again."))
        return FAILED if missing else DONE
    if not found:
        click.echo(say("No study is sent: none of that is in the archive."))
        return FAILED
    with no_run_active(settings.state_dir, "resend") as free:
        if not free:
            requests.ask(settings.state_dir, options.request(str(uuid.uuid4())))
            click.echo(say(f"{_studies(len(found))}: the running `run` sends them behind the live ones."))
            return FAILED if missing else DONE
        sent, parked = resend_alone(settings, options)
    click.echo(say(f"{_studies(sent)} sent again, {parked} parked."))
    return FAILED if missing or parked else DONE


def _studies(count: int) -> str:
    return "1 study" if count == 1 else f"{count:,} studies"


@click.command(cls=SpokenCommand)
@click.option("--for", "span", metavar="SPAN", help="It ends by itself after 90s, 30m, 2h or 1d.")
@in_language
@click.pass_obj
def pause(files: Files, span: str | None) -> None:
    """Let studies wait; nothing is lost. `resume` ends it."""
    until = None
    now = datetime.now(timezone.utc).replace(microsecond=0)
    if span is not None:
        match = _SPAN.fullmatch(span)
        if match is None:
            raise click.BadParameter("say for how long as 90s, 30m, 2h or 1d.", param_hint="--for")
        until = now + timedelta(**{_UNITS[match[2]]: int(match[1])})
    settings = files.load()
    from cdc_indexer.state import requests
    from cdc_indexer.state.lock import make_state_dir
    from cdc_indexer.state.requests import PauseRequest

    make_state_dir(settings.state_dir)
    requests.ask(settings.state_dir, PauseRequest(id=str(uuid.uuid4()), since=now, by=_who(), until=until))
    ends = f" until {for_people(until)}" if until else " until `resume`"
    click.echo(say(f"Studies wait{ends}; nothing is lost meanwhile."))


def _who() -> str:
    try:
        return getpass.getuser()[:100] or "somebody"
    except (KeyError, OSError):
        return "somebody"


@click.command(cls=SpokenCommand)
@in_language
@click.pass_obj
def resume(files: Files) -> None:
    """End a pause."""
    settings = files.load()
    from cdc_indexer.state import requests
    from cdc_indexer.state.requests import PauseRequest

    there = (settings.state_dir / PauseRequest.file()).exists()
    requests.remove(settings.state_dir, PauseRequest.file())
    click.echo(say("Studies go out again." if there else "There was no pause."))


@click.command(cls=SpokenCommand)
@click.option("--arc5", is_flag=True, help="For dcm4chee-arc 5 instead of DCM4CHEE 2.x.")
@click.option("--remove", is_flag=True, help="The script that takes everything out again.")
@click.option("--definer", metavar="USER@HOST", help="The account that the archive logs in with.")
@in_language
def sql(arc5: bool, remove: bool, definer: str | None) -> None:
    """Print the SQL script for the archive's database, such as: cdc-indexer sql | mysql pacsdb"""
    if remove and (arc5 or definer):
        raise click.UsageError("--remove is the same for every archive: leave --arc5 and --definer out.")
    name = "remove_indexer.sql" if remove else "add_indexer_arc5.sql" if arc5 else "add_indexer.sql"
    script = _script(name)
    if definer is not None:
        if not _ACCOUNT.fullmatch(definer):
            raise click.UsageError("--definer is an account as the database names it, such as: pacs@%")
        # MySQL takes it from no variable when it makes a trigger.
        user, _, host = definer.rpartition("@")
        script = script.replace("DEFINER = CURRENT_USER", f"DEFINER = '{user}'@'{host}'")
        script = f"SET @indexer_definer = '{definer}';\n{script}"
    click.echo(script, nl=False)


def _script(name: str) -> str:
    """As installed beside the package, or in the checkout."""
    package = Path(__file__).resolve().parent.parent
    for directory in (package / "sql", package.parent / "extras"):
        path = directory / name
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise click.ClickException(f"{name} isn't installed here: take it from extras/ of the source.")

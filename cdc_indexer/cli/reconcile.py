"""The command `reconcile`."""

# ruff: noqa: PLC0415 - imports inside the commands, as in __init__.py
from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from cdc_indexer.cli.help import SpokenCommand
from cdc_indexer.cli.language import in_language, say

if TYPE_CHECKING:
    from cdc_indexer.cli.files import Files

DONE, FAILED = 0, 1

_DAY = click.DateTime(["%Y-%m-%d"])


@click.command(cls=SpokenCommand)
@click.option("--report-only", is_flag=True, help="Only say what differs; send nothing.")
@click.option("--since", type=_DAY, metavar="DATE", help="Only studies of this day (YYYY-MM-DD) or later.")
@click.option("--until", type=_DAY, metavar="DATE", help="Only studies of this day or earlier.")
@click.option(
    "--accept",
    is_flag=True,
    help="Send what a comparison has held because it would change or delete so much.",
)
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON object.")
@in_language
@click.pass_obj
def reconcile(
    files: Files,
    report_only: bool,
    since: datetime | None,
    until: datetime | None,
    accept: bool,
    as_json: bool,
) -> int:
    """Compare archive and central index, and heal what differs.

    Exit status 0: equal or healed; 1: something still differs, or the index can't be compared (it answers no digests; then
    the archive is compared with what the index was told, and what differs is healed all the same).
    """
    if since and until and since > until:
        raise click.UsageError("--since is later than --until: nothing lies between.")
    from cdc_indexer.jobs.runner import hold_signals

    hold_signals()
    settings = files.load()
    from cdc_indexer.jobs.reconcile import ReconcileOptions
    from cdc_indexer.jobs.reconcile import reconcile as compare
    from cdc_indexer.monitor.progressbar import Progressbar

    options = ReconcileOptions(
        since.date() if since else None, until.date() if until else None, report_only, accept
    )
    with Progressbar("reconcile") as progressbar:
        result = compare(settings, options, progressbar.show)
    if result is None:
        return DONE
    if as_json:
        import json

        click.echo(json.dumps(result))
    else:
        _show(result)
    if not result["index"]:
        said = (
            "This central index can't be compared (it answers no digests): what was compared is the archive and what the "
            "index was told."
        )
        click.echo(say(said), err=True)
        return FAILED
    differs = result["missing"] + result["stale"] + result["extra"]
    return FAILED if result["held"] or (differs > result["healed"]) else DONE


_WORDS = ("compared", "equal", "missing", "stale", "extra", "kept", "healed", "seconds")


def _show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    from cdc_indexer.monitor.language import current
    from cdc_indexer.monitor.texts import number

    table = Table("what", Column("how many", justify="right"), show_header=False)
    for word in _WORDS:
        table.add_row(say(word), number(result[word], current(), 1 if word == "seconds" else 0))
    Console().print(table)
    if result["held"]:
        click.echo(say(f"Held: {result['held']}."), err=True)

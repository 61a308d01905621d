"""The commands that look into the record of who was shown what: ``central-index audit``, ``central-index erase``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import click

from central_index.audit import Audit, AuditKey, Record, UnusableAuditKey, now
from central_index.model import Deleted, Filters, StoreUnavailable, UnusableStore
from central_index.store import Store, make_store
from central_index.words import id_key


class Given(NamedTuple):
    """What a command is told by the options before it."""

    database: str
    keys: Path
    audit_key: Path


@asynccontextmanager
async def _opened(given: Given) -> AsyncIterator[tuple[Store, Audit]]:
    """Raises ClickException."""
    try:
        store = make_store(given.database, None, lambda: None)
        await store.open()
        try:
            audit = Audit(store, AuditKey(given.audit_key))
            await audit.open()
            yield store, audit
        finally:
            await store.close()
    except (UnusableStore, UnusableAuditKey) as error:
        raise click.ClickException(str(error)) from None
    except StoreUnavailable:
        raise click.ClickException("The database can't be reached, or is busy: try again.") from None


@click.group("audit", invoke_without_command=True)
@click.option("--patient", metavar="ID", help="Who was shown this person's studies, or looked for the id.")
@click.pass_context
def audit_command(context: click.Context, patient: str | None) -> None:
    """Who was shown what: JSON lines, for the person who has a right to ask."""
    if context.invoked_subcommand is not None:
        return
    if patient is None:
        raise click.UsageError("Say whose, with --patient ID, or name a command: check, forget.")
    asyncio.run(_list(context.obj, patient))


async def _list(given: Given, patient: str) -> None:
    async with _opened(given) as (_, audit):
        key = id_key(patient)
        async for record in audit.of_patient(patient):
            studies = [
                {"center": center, "study_iuid": iuid}
                for center, iuid, whose in record.content.get("studies", [])
                if whose and id_key(whose) == key
            ]
            line = {
                "at": datetime.fromtimestamp(record.at / 1e6).astimezone().isoformat(timespec="seconds"),
                "reader": record.reader,
                "address": record.address,
                "kind": record.kind,
                "studies": studies,
                # What else was looked for is another person's business.
                "looked_for": sorted(record.content.get("filters", {})),
            }
            click.echo(json.dumps(line, ensure_ascii=False))


@audit_command.command("check")
@click.pass_obj
def check_command(given: Given) -> None:
    """Finds records that were changed or taken out since they were sealed. Exit status 1 if there are any."""
    asyncio.run(_check(given))


async def _check(given: Given) -> None:
    async with _opened(given) as (_, audit):
        checked = await audit.check()
    for sentence in checked.wrong:
        click.echo(sentence)
    click.echo(
        f"{checked.records} records sealed, {checked.unsealed} not yet; the last seal: {checked.last or 'none'}."
    )
    if checked.wrong:
        raise click.exceptions.Exit(1)


@audit_command.command("forget")
@click.option("--before", metavar="YYYY-MM", required=True, help="The first month that is kept.")
@click.pass_obj
def forget_command(given: Given, before: str) -> None:
    """Drops whole months; their last seal is kept, so that `check` goes on."""
    try:
        month = datetime.strptime(before, "%Y-%m").astimezone()
    except ValueError:
        raise click.BadParameter("must be YYYY-MM, such as 2026-01.", param_hint="--before") from None
    asyncio.run(_forget(given, int(month.timestamp() * 1e6)))


async def _forget(given: Given, before: int) -> None:
    async with _opened(given) as (_, audit):
        click.echo(f"{await audit.forget(before)} records dropped.")


@click.command("erase")
@click.option("--patient", metavar="ID", required=True, help="However it is written.")
@click.confirmation_option(prompt="All studies of this id, in all centres?")
@click.pass_obj
def erase_command(given: Given, patient: str) -> None:
    """Erases one patient's studies everywhere, and records that.

    A centre that still holds them sends them again when they change or are compared: erase them there first.
    """
    asyncio.run(_erase(given, patient))


async def _erase(given: Given, patient: str) -> None:
    async with _opened(given) as (store, audit):
        erased: list[list[str]] = []
        while studies := (await store.search(Filters(patient_key=id_key(patient), limit=500))).studies:
            which = [[one["center"], one["study_iuid"], one["patient_id"]] for one in studies]
            # Recorded first: what was erased without a record could not be told any more.
            await audit.add(Record(now(), "central-index erase", "", "erase", {"studies": which}))
            moment = now() / 1e6
            await store.write([Deleted(None, moment, center, iuid) for center, iuid, _ in which])
            erased += which
    click.echo(f"{len(erased)} studies erased.")

"""The commands that look into the record of who was shown what: ``central-index audit``, ``central-index erase``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import click

from central_index.audit import Audit, Record, months_before, now
from central_index.audit_key import AuditKey, UnusableAuditKey
from central_index.document import Rejected
from central_index.filters import read_filters
from central_index.model import Deleted, StoreUnavailable, UnusableStore
from central_index.persons import IdRule, UnknownRule
from central_index.store import Store, is_address, make_store
from central_index.whose import Person

_PAGE = 500
_MOST_NAMED = 20


class Given(NamedTuple):
    """What a command is told by the options before it."""

    database: str
    keys: Path
    audit_key: Path
    id_rule: str | None = None


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
        raise click.ClickException(
            "The database can't be reached, can't be written to, or is busy: try again."
        ) from None


async def _record(audit: Audit, kind: str, content: dict[str, Any]) -> None:
    """Sealed at once: there may be no process that serves."""
    await audit.add(Record(now(), f"central-index {kind}", _account(), kind, content))
    await _seal(audit)


async def _seal(audit: Audit) -> None:
    # Another process seals the same ones, perhaps.
    with contextlib.suppress(StoreUnavailable):
        while await audit.seal():
            pass


def _account() -> str:
    """Who is at the terminal, as the machine knows it."""
    number = os.getuid()
    try:
        name = pwd.getpwuid(number).pw_name
    except KeyError:
        name = str(number)
    by = os.environ.get("SUDO_USER")
    return f"{name}@{socket.gethostname()}" + (f" by sudo of {by}" if by else "")


def _person(given: Given, patient: str, id_rule: str | None) -> Person:
    """Raises ClickException."""
    name = id_rule or given.id_rule
    try:
        rule = IdRule(name) if name else None
        read_filters({"patient_id": patient})
    except (UnknownRule, Rejected) as error:
        raise click.ClickException(str(error)) from None
    if not patient:
        # No filter at all would mean everybody.
        raise click.BadParameter("must not be empty.", param_hint="--patient")
    return Person(patient, rule)


_id_rule = click.option("--id-rule", metavar="RULE", help="An id of its form is meant however it is written.")


@click.group("audit", invoke_without_command=True)
@click.option("--patient", metavar="ID", help="Who was shown this person's studies, or looked for the id.")
@_id_rule
@click.pass_context
def audit_command(context: click.Context, patient: str | None, id_rule: str | None) -> None:
    """Who was shown what: JSON lines, for the person who has a right to ask. That you asked is recorded, too."""
    if context.invoked_subcommand is not None:
        return
    if patient is None:
        raise click.UsageError("Say whose, with --patient ID, or name a command: check, forget.")
    asyncio.run(_list(context.obj, _person(context.obj, patient, id_rule)))


async def _list(given: Given, person: Person) -> None:
    async with _opened(given) as (_, audit):
        records = [record async for record in audit.of_patient(person)]
        # Before it is shown, as all that is.
        await _record(audit, "audit", {"filters": {"patient_id": person.patient_id}})
    for record in records:
        studies = [
            {"center": center, "study_iuid": iuid}
            for center, iuid, whose in record.content.get("studies", [])
            if whose and person.has(whose)
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
    for sentence in checked.forgotten:
        click.echo(sentence)
    if checked.wrong:
        raise click.exceptions.Exit(1)


@audit_command.command("forget")
@click.option("--before", metavar="YYYY-MM", required=True, help="The first month that is kept.")
@click.pass_obj
def forget_command(given: Given, before: str) -> None:
    """Drops whole months, and records that; their last seal is kept, so that `check` goes on."""
    try:
        month = int(datetime.strptime(before, "%Y-%m").astimezone().timestamp() * 1e6)
    except (ValueError, OverflowError):
        raise click.BadParameter("must be YYYY-MM, such as 2026-01.", param_hint="--before") from None
    today = datetime.now()
    if month > months_before(0, today):
        raise click.BadParameter(
            f"would drop a month that isn't over: give {today:%Y-%m} or one before.", param_hint="--before"
        )
    asyncio.run(_forget(given, month))


async def _forget(given: Given, before: int) -> None:
    async with _opened(given) as (_, audit):
        dropped = await audit.forget(before, "central-index forget", _account())
        await _seal(audit)
    click.echo(f"{dropped} records dropped.")


@click.command("erase")
@click.option("--patient", metavar="ID", required=True, help="Exactly as it is written, but for --id-rule.")
@_id_rule
@click.option("--yes", is_flag=True, help="Doesn't ask.")
@click.pass_obj
def erase_command(given: Given, patient: str, id_rule: str | None, yes: bool) -> None:
    """Erases one patient's studies everywhere, and records that.

    A centre that still holds them sends them again when they change or are compared: erase them there first.
    """
    person = _person(given, patient, id_rule)
    if not yes and asyncio.run(_say(given, person)):
        click.confirm("Erase them?", abort=True)
    asyncio.run(_erase(given, person))


async def _say(given: Given, person: Person) -> bool:
    """What would be erased; whether there is anything."""
    centers: Counter[str] = Counter()
    names: dict[str, None] = {}
    ids: dict[str, None] = {}
    filters = replace(person.filters(), limit=_PAGE)
    async with _opened(given) as (store, audit):
        while True:
            found = await store.search(filters)
            which = [[one["center"], one["study_iuid"], one["patient_id"]] for one in found.studies]
            await _record(
                audit, "erase-preview", {"filters": {"patient_id": person.patient_id}, "studies": which}
            )
            centers.update(center for center, _, _ in which)
            names.update((one["patient_name"] or "(no name)", None) for one in found.studies)
            ids.update((one["patient_id"], None) for one in found.studies)
            if found.following is None:
                break
            filters = replace(filters, after=found.following)
    if not centers:
        return False
    click.echo(f"{centers.total()} studies of {person.patient_id}, in these centres:")
    for center, number in sorted(centers.items()):
        click.echo(f"  {center}: {number}")
    click.echo(f"Names: {_some(names)}")
    click.echo(f"Ids: {_some(ids)}")
    return True


def _some(values: Iterable[str]) -> str:
    values = sorted(values)
    more = f" and {len(values) - _MOST_NAMED} more" if len(values) > _MOST_NAMED else ""
    return f"{', '.join(values[:_MOST_NAMED])}{more}."


async def _erase(given: Given, person: Person) -> None:
    async with _opened(given) as (store, audit):
        erased = 0
        while studies := (await store.search(replace(person.filters(), limit=_PAGE))).studies:
            which = [[one["center"], one["study_iuid"], one["patient_id"]] for one in studies]
            # Recorded first: what was erased without a record could not be told any more.
            await _record(audit, "erase", {"studies": which})
            moment = now() / 1e6
            await store.write([Deleted(None, moment, center, iuid) for center, iuid, _ in which])
            erased += len(which)
    click.echo(f"Studies erased: {erased}.")
    if is_address(given.database):
        if not erased:
            return
        click.echo(
            "PostgreSQL's files, WAL and backups still hold them for a while: see docs/region.md.", err=True
        )
        return
    from central_index.sqlite_scrub import scrub  # noqa: PLC0415 - of this engine alone

    try:
        # Where there was nothing, too: the one before may have been interrupted.
        await asyncio.to_thread(scrub, Path(given.database))
    except UnusableStore as error:
        raise click.ClickException(str(error)) from None

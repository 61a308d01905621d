"""The command ``central-index``: starts the reference central index."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType

import click
import structlog
import uvicorn

from central_index.app import Central, Options
from central_index.audit_key import UnusableAuditKey
from central_index.cli_audit import Given, audit_command, erase_command
from central_index.cli_keys import centre_command, user_command
from central_index.impatient import Impatient
from central_index.keys import UnusableKeys
from central_index.model import UnusableStore
from central_index.persons import UnknownRule
from central_index.store import is_address
from central_index.web import HEADERS

log = structlog.get_logger()


class _Server(uvicorn.Server):
    """Ends the pages' streams when it is asked to end, and then with exit status 0.

    uvicorn would wait for the browsers to close them, and end by the signal.
    """

    def __init__(self, config: uvicorn.Config, central: Central) -> None:
        super().__init__(config)
        self._central = central

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._central.stop_streaming()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def _address(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, int]:
    host, _, port = value.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise click.BadParameter("must be HOST:PORT, such as 127.0.0.1:8080.")
    return host.strip("[]"), int(port)


@click.group(
    invoke_without_command=True, context_settings={"auto_envvar_prefix": "CENTRAL", "show_default": True}
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    callback=_address,
    default="127.0.0.1:8080",
    help="Where centres and people connect.",
)
@click.option(
    "--database",
    metavar="FILE|URL",
    default="central.sqlite",
    help="The studies: a file of SQLite, or postgresql://USER@HOST/NAME.",
)
@click.option("--read-database", metavar="URL", help="Where searches go instead, such as a standby.")
@click.option("--keys", type=click.Path(path_type=Path), default="keys.json", help="Who may do what.")
@click.option(
    "--audit-key",
    type=click.Path(path_type=Path),
    show_default="beside the file of --database, or audit.key",
    help="Seals and hides the record of who was shown what; made if it isn't there.",
)
@click.option(
    "--audit-months",
    type=click.IntRange(1),
    metavar="NUMBER",
    show_default="all are kept",
    help="So many whole months of that record are kept; older ones are dropped, but for their last seal.",
)
@click.option("--id-rule", metavar="RULE", help="How ids of patients are written, such as cl.rut or es.dni.")
@click.option("--tls-cert", type=click.Path(path_type=Path), help="Certificate chain, PEM.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Its private key, PEM.")
@click.pass_context
def main(
    context: click.Context,
    listen: tuple[str, int],
    database: str,
    read_database: str | None,
    keys: Path,
    audit_key: Path | None,
    audit_months: int | None,
    id_rule: str | None,
    tls_cert: Path | None,
    tls_key: Path | None,
) -> None:
    """The reference central index: takes the studies of many centres, and shows them to who may read.

    Without a command it serves.
    """
    # What this process makes holds names of patients.
    os.umask(0o077)
    if audit_key is None:
        audit_key = Path("audit.key") if is_address(database) else Path(database).with_suffix(".audit-key")
    if context.invoked_subcommand is not None:
        context.obj = Given(database, keys, audit_key, id_rule)
        return
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    # Addresses hold what was searched for, so there is no access log.
    logging.basicConfig(level=logging.ERROR)
    host, port = listen
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key belong together.")
    if read_database is not None and not (is_address(database) and is_address(read_database)):
        raise click.UsageError("--read-database needs PostgreSQL on both sides.")
    try:
        central = Central(Options(database, keys, audit_key, read_database, id_rule, audit_months))
    except (UnusableKeys, UnusableStore, UnknownRule, UnusableAuditKey) as error:
        raise click.ClickException(str(error)) from None
    config = uvicorn.Config(
        central.application,
        host=host,
        port=port,
        ssl_certfile=tls_cert,
        ssl_keyfile=tls_key,
        access_log=False,
        log_config=None,
        http=Impatient,
        ws="none",
        server_header=False,
        headers=list(HEADERS.items()),
        timeout_graceful_shutdown=5,
        timeout_keep_alive=75,
        limit_concurrency=1_000,
    )
    scheme = "https" if tls_cert else "http"
    log.info("listening", address=f"{scheme}://{host}:{port}/")
    if tls_cert is None and not _is_loopback(host):
        log.warning(
            "Names of patients and keys travel unencrypted: give --tls-cert and --tls-key, or put a proxy in front."
        )
    try:
        asyncio.run(_serve(_Server(config, central), central))
    except (UnusableStore, UnusableAuditKey) as error:
        raise click.ClickException(str(error)) from None


main.add_command(audit_command)
main.add_command(erase_command)
main.add_command(user_command)
main.add_command(centre_command)


@main.command("move")
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_obj
def move_command(given: Given, file: Path) -> None:
    """Moves FILE, an index on SQLite, into the PostgreSQL that --database names: studies, and who was shown what.

    Stop the index on FILE first. It may be repeated.
    """
    if not is_address(given.database):
        raise click.UsageError("--database must name the PostgreSQL, postgresql://USER@HOST/NAME.")
    from central_index.moving import move  # noqa: PLC0415 - needs psycopg

    try:
        moved = asyncio.run(
            move(file, given.database, given.audit_key, lambda done: click.echo(f"{done} studies", err=True))
        )
    except UnusableStore as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"Moved {moved.studies} studies, deleted ones included.")
    if moved.records is not None:
        key = moved.key.absolute() if moved.key else f"the file that the index on {file} had"
        click.echo(f"Moved {moved.records} records of who was shown what. From now on: --audit-key {key}")
    if moved.left_out:
        click.echo(
            f"Left out, since PostgreSQL can't keep U+0000: study_pk {', '.join(map(str, moved.left_out))}."
        )
    if moved.differing:
        click.echo(f"Not the same on both sides (newer there, perhaps): {', '.join(moved.differing)}.")
    else:
        click.echo("Compared by their digests: the same on both sides.")


async def _serve(server: _Server, central: Central) -> None:
    await central.open()
    # What is there by now stays, and requests leave no circles: to look for them costs a tenth of a study.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)
    await server.serve()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


if __name__ == "__main__":
    main()

"""How long the server keeps its binary logs, and whether our place in them stays: findings for `check`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from cdc_indexer.model.finding import Finding, failed, ok, warning
from cdc_indexer.model.position import Position
from cdc_indexer.source import catalogue

if TYPE_CHECKING:
    from cdc_indexer.source.session import Session

__all__ = ["MY_CNF", "Following", "Server", "expire_lines", "period", "retention"]

_NAME = "binlog retention"

#: Kept for less, an outage over a weekend ends in a search through the table.
_ENOUGH = timedelta(days=3)
_DAYS = 7

MY_CNF = "In my.cnf, then restart the server once:\n[mysqld]\n{lines}"


@dataclass(frozen=True, slots=True)
class Following:
    """How this service follows the server.

    ``written``: when the checkpoint with ``position`` was written, None without one. ``running``: a `run` is active now,
    so that the position moves by itself. ``columns``: more columns of the view that the
    settings name.
    """

    server_id: int
    position: Position | None = None
    written: datetime | None = None
    running: bool = False
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Server:
    """What a server says of itself; ``variables`` by their names in lower case."""

    mariadb: bool
    version: tuple[int, ...]
    variables: dict[str, str]


def retention(session: Session, server: Server, following: Following) -> Iterator[Finding]:
    """Unlimited, too short, or about to purge the place where the service would go on."""
    if server.variables.get("log_bin") != "ON":
        return
    kept, limited = _kept(server.variables)
    lines = expire_lines(server)
    lasting = (
        f"As an administrator{{}}:\n{_expire_sql(server)}\nAnd in my.cnf, to keep it:\n[mysqld]\n{lines}"
    )
    if kept is None and not limited:
        yield failed(
            _NAME,
            "Binary logs are kept for ever: they fill the disk of the archive in the end.",
            lasting.format(" (older ones go at the next change of file: other replicas must have read them)"),
        )
        return
    behind = _behind(session, following, kept)
    if behind is not None:
        yield behind
    elif kept is None:
        yield ok(_NAME, "Binary logs are kept up to a size.")
    elif kept < _ENOUGH:
        yield warning(
            _NAME,
            f"Binary logs are kept for {period(kept)}: an outage of the service over a weekend outlasts that.",
            lasting.format(""),
        )
    else:
        yield ok(_NAME, f"Binary logs are kept for {period(kept)}.")


def _kept(variables: Mapping[str, str]) -> tuple[timedelta | None, bool]:
    """How long binary logs are kept (None: no limit of time), and whether their size is limited."""

    def number(name: str) -> float:
        try:
            return float(variables.get(name, "0"))
        except ValueError:
            return 0.0

    limited = number("max_binlog_total_size") > 0 or number("binlog_space_limit") > 0
    if variables.get("binlog_expire_logs_auto_purge") == "OFF":
        return None, limited
    seconds = number("binlog_expire_logs_seconds") or number("expire_logs_days") * 86_400
    return (timedelta(seconds=seconds) if seconds else None), limited


def _behind(session: Session, following: Following, kept: timedelta | None) -> Finding | None:
    """A position that is purged, or soon will be."""
    if following.position is None or following.written is None or following.running:
        return None
    files = [name for name, _ in catalogue.binlogs(session)]
    if following.position.file not in files:
        return warning(
            _NAME,
            f"The server has no binary log {following.position.file} any more, where the service would go on.",
            "Start the service: it takes a fresh position and reads the table for what is missing.",
        )
    if following.position.file == files[-1] or kept is None:
        return None
    age = datetime.now(timezone.utc) - following.written
    if age * 2 < kept:
        return None
    return warning(
        _NAME,
        f"The service was last there {period(age)} ago, and binary logs are kept for {period(kept)}: "
        "its place in the log will be purged.",
        "Start the service.",
    )


def expire_lines(server: Server) -> str:
    """What my.cnf says to keep binary logs for a week."""
    if server.mariadb or server.version < (8, 0, 1):
        return f"expire_logs_days = {_DAYS}"
    purge = server.variables.get("binlog_expire_logs_auto_purge") == "OFF"
    more = "\nbinlog_expire_logs_auto_purge = ON" if purge else ""
    return f"binlog_expire_logs_seconds = {_DAYS * 86_400}{more}"


def _expire_sql(server: Server) -> str:
    kind = "SET GLOBAL" if server.mariadb or server.version < (8, 0, 1) else "SET PERSIST"
    return "\n".join(f"{kind} {line};" for line in expire_lines(server).splitlines())


def period(length: timedelta) -> str:
    """A length of time for people."""
    seconds = length.total_seconds()
    for unit, unit_seconds in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * unit_seconds:
            return f"{seconds / unit_seconds:.0f} {unit}"
    return f"{seconds:.0f} seconds"

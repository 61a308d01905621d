"""Whether the tables can roll back: findings for `check`. A row is recorded in the transaction that it tells of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cdc_indexer.model.finding import Finding, failed, ok, warning
from cdc_indexer.source.outbox import TABLE

if TYPE_CHECKING:
    from cdc_indexer.checks.installation import Check
    from cdc_indexer.source.session import Session

__all__ = ["objects", "outbox"]

#: The archive's tables of which studies are made, in DCM4CHEE 2.x and dcm4chee-arc 5.
_ARCHIVE = ("study", "patient", "series", "instance", "patient_id", "person_name")

_TRANSACTIONAL = "innodb"


def outbox(session: Session) -> list[Check]:
    """What the service's own account can see: the outbox."""
    return [("storage engine", lambda: _outbox(session))]


def objects(session: Session) -> list[Check]:
    """What an administrator's login can see: the archive's tables."""
    return [("storage engine", lambda: _archive(session))]


def _outbox(session: Session) -> Iterator[Finding]:
    engine = _engines(session, (TABLE,)).get(TABLE, "")
    if engine.lower() in (_TRANSACTIONAL, ""):  # without the table that is said elsewhere
        return
    yield failed(
        "storage engine",
        f"{TABLE} is a {engine} table: it keeps what the archive rolls back, and who reads it holds up the archive.",
        f"As an administrator, in a quiet hour:\nALTER TABLE {TABLE} ENGINE = InnoDB;",
    )


def _archive(session: Session) -> Iterator[Finding]:
    found = _engines(session, _ARCHIVE)
    others = {name: engine for name, engine in found.items() if engine.lower() != _TRANSACTIONAL}
    if not others:
        yield ok("storage engine", "The archive's tables are InnoDB.")
        return
    listed = ", ".join(f"{name} ({engine})" for name, engine in sorted(others.items()))
    statements = "\n".join(f"ALTER TABLE {name} ENGINE = InnoDB;" for name in sorted(others))
    yield warning(
        "storage engine",
        f"The archive's {listed} can't roll back: a study that is stored in a transaction which fails stays there, "
        f"and its row in {TABLE} doesn't, so that nobody is told of it.",
        f"Convert them while the archive is stopped, after a backup:\n{statements}",
    )


def _engines(session: Session, names: tuple[str, ...]) -> dict[str, str]:
    rows = session.rows(
        "SELECT TABLE_NAME, ENGINE FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s "
        "AND TABLE_TYPE = 'BASE TABLE' AND TABLE_NAME IN %s",
        (session.identity.database, names),
    )
    return {str(name): str(engine or "") for name, engine in rows}

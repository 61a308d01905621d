"""What the tests of the binary log share: an outbox made by hand, and a reader that is read until it is caught up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

from cdc_indexer.model.position import Position
from cdc_indexer.model.settings import DatabaseSettings, StreamSettings
from cdc_indexer.model.study import OutboxRow
from cdc_indexer.source import catalogue
from cdc_indexer.source.binlog import (
    BinlogReader,
    Event,
    Heartbeat,
    Rows,
    TableChanged,
    TableRead,
    TransactionEnd,
)
from cdc_indexer.source.catalogue import Column
from cdc_indexer.source.session import Session
from cdc_indexer.source.source import Source

#: The table of DESIGN 4, without its triggers: what is tested here is the log, whoever wrote the rows.
COLUMNS = """
    id BIGINT UNSIGNED NOT NULL PRIMARY KEY,
    operation VARCHAR(16) NOT NULL,
    patient_pk BIGINT,
    patient_id VARCHAR(250),
    patient_name VARCHAR(250),
    study_pk BIGINT,
    study_iuid VARCHAR(250),
    study_datetime DATETIME,
    study_description VARCHAR(250),
    study_modality VARCHAR(250),
    study_series INT,
    study_instances INT,
    accession_no VARCHAR(250),
    patient_id_issuer VARCHAR(250),
    recorded_at DATETIME(6) NOT NULL
"""

#: The server says that it is caught up once it has sent nothing for so long.
HEARTBEAT_SECONDS = 0.2


def settings(server: Any, database: str, **changes: Any) -> DatabaseSettings:
    """The root account's; ``changes`` win."""
    values = {
        "host": server.host,
        "port": server.port,
        "user": "root",
        "password": server.root_password,
        "name": database,
        **changes,
    }
    return DatabaseSettings.model_validate(values)


@contextmanager
def reading(database: DatabaseSettings) -> Iterator[Session]:
    """A session of a source of its own, for a moment."""
    with closing(Source(database)) as source, source.session() as session:
        yield session


class Outbox:
    """``study_service`` in a database of a real server, and sessions that write into it."""

    def __init__(self, server: Any, database: str) -> None:
        self.server = server
        self.database = database
        self.settings = settings(server, database)
        self.session = server.connect(database)
        self("SET time_zone = '+00:00'")
        self(f"CREATE TABLE study_service ({COLUMNS}) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4")
        self("CREATE TABLE other (a INT PRIMARY KEY AUTO_INCREMENT, b VARCHAR(200)) ENGINE=InnoDB")

    def __call__(self, sql: str, *args: object) -> list[tuple[Any, ...]]:
        with self.session.cursor() as cursor:
            cursor.execute(sql, args or None)
            return list(cursor.fetchall())

    def close(self) -> None:
        for _, _, _, name in self("XA RECOVER"):
            # What a test that failed left prepared would hold up DROP DATABASE for ever.
            self("XA ROLLBACK %s", name)
        self.session.close()

    @property
    def is_mariadb(self) -> bool:
        return str(self.server.flavour).startswith("mariadb")

    def insert(self, *ids: int, table: str = "study_service", **values: object) -> None:
        """One statement with a row for each id."""
        row = {"operation": "stored", "study_pk": 7, "study_iuid": "1.2.3", **values}
        names = ", ".join(["id", *row, "recorded_at"])
        places = ", ".join(["(%s" + ", %s" * len(row) + ", UTC_TIMESTAMP(6))"] * len(ids))
        args = [value for number in ids for value in (number, *row.values())]
        self(f"INSERT INTO {table} ({names}) VALUES {places}", *args)

    def other(self, count: int = 1) -> None:
        """Transactions that aren't ours."""
        for _ in range(count):
            self("INSERT INTO other (b) VALUES ('x')")

    def end(self) -> Position:
        with reading(self.settings) as connection:
            return catalogue.binlog_end(connection)

    def end_made(self) -> Position:
        """The end of the log as the reader gives it: with the second in which the file was made."""
        end = self.end()
        created = self.follow(end).position.file_created
        return replace(end, file_created=created)

    def log_events(self, position: Position) -> list[tuple[Any, ...]]:
        """(file, offset, type, server_id, end, text) of the events in the position's file from there on."""
        return self(f"SHOW BINLOG EVENTS IN '{position.file}' FROM {position.offset}")

    def statements(self, position: Position) -> str:
        return "\n".join(str(event[5]) for event in self.log_events(position))

    def columns(self) -> tuple[Column, ...]:
        with reading(self.settings) as connection:
            return catalogue.columns(connection, self.database, "study_service")

    def reader(
        self,
        position: Position,
        columns: tuple[Column, ...] | None,
        *,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        server_id: int = 90_001,
        audit_seconds: float = 60,
        **changes: Any,
    ) -> BinlogReader:
        return BinlogReader(
            Source(settings(self.server, self.database, **changes)),
            StreamSettings(heartbeat_seconds=heartbeat_seconds, audit_seconds=audit_seconds),
            server_id,
            position,
            columns,
        )

    def follow(
        self, position: Position, columns: tuple[Column, ...] | None = None, **options: Any
    ) -> Followed:
        """Everything from ``position`` until the server has nothing more; the columns default to today's."""
        reader = self.reader(position, columns or self.columns(), **options)
        return Followed(caught_up(reader))


def caught_up(reader: BinlogReader) -> list[Event]:
    """What the reader gives until its first heartbeat; it is closed then."""
    events: list[Event] = []
    try:
        for event in reader:
            if isinstance(event, Heartbeat):
                break
            events.append(event)
    finally:
        reader.close()
    return events


class Followed:
    """The events of one reader, by kind."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.events = list(events)

    def __repr__(self) -> str:
        return "\n".join(str(event) for event in self.events)

    @property
    def rows(self) -> list[OutboxRow]:
        return [row for event in self.events if isinstance(event, Rows) for row in event.rows]

    @property
    def ids(self) -> list[int]:
        return [row.id for row in self.rows]

    @property
    def ends(self) -> list[TransactionEnd]:
        return [event for event in self.events if isinstance(event, TransactionEnd)]

    @property
    def position(self) -> Position:
        return self.ends[-1].position

    @property
    def reads(self) -> list[str]:
        """Why the table had to be read."""
        return [event.reason for event in self.events if isinstance(event, TableRead)]

    @property
    def changes(self) -> int:
        """How often the table was said to have changed."""
        return sum(isinstance(event, TableChanged) for event in self.events)

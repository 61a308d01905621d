"""One session with the PACS's database, borrowed from the :class:`~cdc_indexer.source.source.Source`.

It can only read. What the server answers with an error comes as one of model/errors.py; a session that died while it
was idle (the server's wait_timeout, a proxy, a firewall) is opened again without anybody noticing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import pymysql
from pymysql.cursors import Cursor, DictCursor

from cdc_indexer.model.errors import IndexerError, SourceChanged
from cdc_indexer.source import _driver
from cdc_indexer.source.errors import is_lost, translate

if TYPE_CHECKING:
    from cdc_indexer.model.position import Identity
    from cdc_indexer.model.settings import DatabaseSettings
    from cdc_indexer.source._driver import Connection

__all__ = ["Session"]

_T = TypeVar("_T")

_CHANGED = "The database is another one than before, or its settings are: it's connected to anew."


class Session:
    """Queries, each on its own. ``epoch`` is that of the source in which everything is read that it gives.

    Every method raises SourceChanged once the source has entered another epoch, and SourceError or one of its kinds
    when the server refuses or is away. One thread uses it at a time.

    ``connection`` is a fresh one; ``again`` opens another, which must be of the same epoch (or SourceChanged).
    """

    def __init__(
        self,
        connection: Connection,
        database: DatabaseSettings,
        identity: Identity,
        epoch: int,
        *,
        is_current: Callable[[], bool],
        again: Callable[[], Connection],
    ) -> None:
        self.database = database
        self.identity = identity
        self.epoch = epoch
        self._connection = connection
        self._is_current = is_current
        self._again = again
        #: Nothing was asked since it was lent: what fails now may have died long ago.
        self._unproven = False
        self._selected = False
        #: By the clock that doesn't jump.
        self.opened_at = time.monotonic()
        #: Whether it can be lent again: not after it was lost, nor in the middle of something.
        self.sound = True

    # --- what it is --------------------------------------------------------------------------------------

    @property
    def connection(self) -> Connection:
        """The driver's; for the stream, which reads it by itself."""
        return self._connection

    @property
    def is_over(self) -> bool:
        """Whether the source has entered another epoch: its next use raises SourceChanged."""
        return not self._is_current()

    @property
    def is_mariadb(self) -> bool:
        """MariaDB, or MySQL."""
        return "mariadb" in self._version_text.lower()

    @property
    def version(self) -> tuple[int, ...]:
        """(major, minor, patch) as the server says it, without MariaDB's old replication prefix ``5.5.5-``."""
        text = self._version_text
        if self.is_mariadb:
            text = text.removeprefix("5.5.5-")
        numbers = []
        for part in text.split("-")[0].split(".")[:3]:
            if not part.isdigit():
                break
            numbers.append(int(part))
        return tuple(numbers)

    @property
    def _version_text(self) -> str:
        return str(self._connection.server_version)  # type: ignore[attr-defined]

    @property
    def encryption(self) -> str | None:
        """How it is encrypted ("TLSv1.3, ..."); None when it isn't."""
        return _driver.encryption(self._connection)

    # --- queries -----------------------------------------------------------------------------------------

    def rows(self, sql: str, arguments: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query, which its caller has bounded."""
        return self._ask(Cursor, sql, arguments)[0]

    def records(self, sql: str, arguments: Sequence[object] = ()) -> list[Mapping[str, Any]]:
        """The same, each row by its columns' names."""
        return self._ask(DictCursor, sql, arguments)[0]

    def column_names(self, sql: str) -> list[str]:
        """Those of a query's result."""
        return self._ask(Cursor, sql, ())[1]

    def select_database(self) -> None:
        """Makes the PACS's database the one that names of tables belong to; asked of the server once."""
        if self._selected:
            return
        with self._translated():
            self._retried(lambda: self._connection.select_db(self.database.name))
            self._selected = True

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All queries in the block see the same instant; nothing is locked."""
        # REPEATABLE READ for the next transaction only.
        self.rows("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        self.rows("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        sound, self.sound = self.sound, False
        yield
        # An error before this leaves it unsound: it is closed, and the server ends the snapshot.
        self.rows("COMMIT")
        self.sound = sound

    @contextmanager
    def cursor(self, kind: type[Cursor] = Cursor) -> Iterator[Any]:
        """The driver's cursor; what it raises in the block is translated."""
        with self._translated(), self._connection.cursor(kind) as cursor:
            yield cursor

    def _ask(self, kind: type[Cursor], sql: str, arguments: Sequence[object]) -> tuple[list[Any], list[str]]:
        def ask() -> tuple[list[Any], list[str]]:
            with self._connection.cursor(kind) as cursor:
                cursor.execute(sql, tuple(arguments) or None)
                return list(cursor.fetchall()), [str(column[0]) for column in cursor.description or ()]

        with self._translated():
            return self._retried(ask)

    def _retried(self, action: Callable[[], _T]) -> _T:
        """Does it; once more on a new connection when the session turns out to have died before it was asked."""
        unproven, self._unproven = self._unproven, False
        try:
            return action()
        except (pymysql.Error, OSError) as error:
            if not (unproven and is_lost(error)) or not self._is_current():
                raise
            with suppress(pymysql.Error, OSError):
                _driver.break_off(self._connection)
            self._connection = self._again()
            if self._selected:
                self._connection.select_db(self.database.name)
            return action()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        if not self._is_current():
            self.sound = False
            raise SourceChanged(_CHANGED)
        try:
            yield
        except (pymysql.Error, OSError) as error:
            if not isinstance(error, pymysql.Error) or is_lost(error):
                self.sound = False
            # Its line was cut because of that: the other error says nothing.
            if not self._is_current():
                self.sound = False
                raise SourceChanged(_CHANGED) from None
            raise translate(error, self.database) from None
        except IndexerError:
            raise
        except BaseException:
            self.sound = False  # perhaps in the middle of an answer
            raise

    # --- the source's ------------------------------------------------------------------------------------

    def lend(self) -> None:
        """It was idle, and is borrowed."""
        self._unproven = True

    def hang_up(self) -> None:
        """Makes whoever waits for an answer fail; from any thread."""
        _driver.hang_up(self._connection)

    def close(self) -> None:
        """Ends it; whoever is in the middle of something isn't asked to listen to a goodbye."""
        with suppress(pymysql.Error, OSError, ValueError):
            if self.sound:
                self._connection.close()
            else:
                _driver.break_off(self._connection)

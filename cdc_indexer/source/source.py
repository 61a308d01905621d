"""The PACS's database, of which there is one: whoever asks it something borrows a session here and gives it back.

The source alone knows the settings, which server answers, and in which *epoch* it is. New settings, another server
behind the address, or another address begin a new epoch: every borrowed session ends at its next use (SourceChanged),
and what was read in one epoch must not settle anything in another. A row that "isn't in the table" of another server is
not pruned. So each session, page and event says its epoch, and ``Outbox.at`` reads in one epoch or not at all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pymysql

from cdc_indexer.model.errors import (
    IndexerError,
    NoBinlog,
    SchemaError,
    SourceChanged,
    SourceFull,
    SourceRefused,
    Stopped,
)
from cdc_indexer.source import _driver
from cdc_indexer.source.catalogue import identity_of
from cdc_indexer.source.connection import READ_TIMEOUT_SECONDS, connect
from cdc_indexer.source.errors import translate
from cdc_indexer.source.session import Session

if TYPE_CHECKING:
    from cdc_indexer.model.position import Identity
    from cdc_indexer.model.settings import DatabaseSettings
    from cdc_indexer.source._driver import Connection

__all__ = ["SESSIONS_NEEDED", "SESSIONS_WANTED", "Source"]

#: One for the binary log and one for all else; with so many everything runs side by side.
SESSIONS_NEEDED = 2
SESSIONS_WANTED = 4

#: A session that was idle for longer is opened anew instead of trusted: what lies between may have cut it without a word.
_IDLE_SECONDS = 20.0

#: And one that is older: behind the address another server may have taken over, while the old one still answers us.
_AGE_SECONDS = 120.0

#: How long a session is waited for that somebody else has, where the server gives no further one.
_WAIT_SECONDS = 15.0

#: After the server had no room it isn't asked for more for so long, while one of ours can be waited for.
_FULL_SECONDS = 30.0

#: A server counts a session for a moment after it was closed.
_COUNTED_SECONDS = 0.5
_COUNTED_AGAIN_SECONDS = 0.05

#: How long the end of the program waits for the database, and after how long it hangs up once more.
END_PATIENCE_SECONDS = 5.0
_GIVE_UP_AGAIN_SECONDS = 0.2

_ONE_ONLY = (
    "{reason} The binary log needs a session of its own, so this program needs {needed} ({wanted} to do everything side by "
    "side)."
)


class Source:
    """See the module. Thread-safe.

    ``known``: which server it was when what is to be settled now was read, in an earlier process; another one begins the
    second epoch. ``read_again`` is called before the next try after the database refused us: it reads the files, and may
    call :meth:`reload`. ``read_timeout_seconds``: how long an answer is waited for.

    Every method that asks the server raises SourceError or one of its kinds.
    """

    def __init__(
        self,
        database: DatabaseSettings,
        *,
        known: Identity | None = None,
        read_again: Callable[[], None] = lambda: None,
        read_timeout_seconds: float = READ_TIMEOUT_SECONDS,
    ) -> None:
        self._database = database
        self._read_timeout_seconds = read_timeout_seconds
        self._read_again = read_again
        self._changed = threading.Condition()
        self._epoch = 1
        self._identity = known
        self._idle: list[tuple[float, Session]] = []
        #: Borrowed, without those that read the binary log.
        self._lent: set[Session] = set()
        self._apart: set[Session] = set()
        self._opening: set[Connection] = set()
        self._refused = False
        self._full_until = 0.0
        self._interrupted = False

    # --- what it is --------------------------------------------------------------------------------------

    @property
    def database(self) -> DatabaseSettings:
        """The settings in force."""
        with self._changed:
            return self._database

    @property
    def epoch(self) -> int:
        """Counts from 1; what was read in another epoch than this settles nothing."""
        with self._changed:
            return self._epoch

    @property
    def identity(self) -> Identity | None:
        """The server that answered last in this epoch (or is known from before); None while none has."""
        with self._changed:
            return self._identity

    def reload(self, database: DatabaseSettings) -> bool:
        """New settings; whether they differ, and a new epoch has begun."""
        with self._changed:
            if database == self._database:
                return False
            self._database = database
            self._identity = None
            self._begin_epoch()
            return True

    def renew(self) -> int:
        """Begins a new epoch: the server is the same by name, but what it holds is another's (reset, restored)."""
        with self._changed:
            self._begin_epoch()
            return self._epoch

    def _begin_epoch(self) -> None:
        self._epoch += 1
        self._full_until = 0.0
        for _, session in self._idle:
            session.close()
        self._idle.clear()
        for session in self._lent | self._apart:
            session.hang_up()
        self._changed.notify_all()

    # --- sessions ----------------------------------------------------------------------------------------

    @contextmanager
    def session(self, *, database: bool = True) -> Iterator[Session]:
        """A session for some queries, not to be kept while something else is waited for.

        Without ``database`` no right on the PACS's database is needed, and tables must be named with theirs.
        """
        session = self._borrow()
        try:
            if database:
                session.select_database()
            yield session
        except BaseException as error:
            self._judge(session, error)
            raise
        finally:
            self._give_back(session)

    @contextmanager
    def session_apart(self, *, read_timeout_seconds: float) -> Iterator[Session]:
        """A session of its own for as long as the block takes, for the binary log; it is broken off at the end.

        Raises NoBinlog where the server gives this account so few that there would be none left for the table.
        """
        self._before_try()
        session = self._open_apart(read_timeout_seconds)
        try:
            yield session
        except BaseException as error:
            self._judge(session, error)
            raise
        finally:
            session.sound = False
            session.close()
            with self._changed:
                self._apart.discard(session)
                self._changed.notify_all()

    def _judge(self, session: Session, error: BaseException) -> None:
        """What an error in the block means for the session, and for the next try."""
        if not isinstance(error, (IndexerError, GeneratorExit)):
            session.sound = False
        self._note_refusal(error)

    def _note_refusal(self, error: BaseException) -> None:
        # Perhaps the settings name the wrong account, or the wrong database.
        if isinstance(error, (SourceRefused, SchemaError, NoBinlog)):
            with self._changed:
                self._refused = True

    def _before_try(self) -> None:
        with self._changed:
            refused, self._refused = self._refused, False
        if refused:
            self._read_again()

    def _borrow(self) -> Session:
        self._before_try()
        ends_at = time.monotonic() + _WAIT_SECONDS
        while True:
            with self._changed:
                if self._interrupted:
                    raise Stopped("The program is asked to end.")
                session = self._take_idle()
                if session is not None:
                    self._lent.add(session)
                    session.lend()
                    return session
                now = time.monotonic()
                if now < self._full_until and self._lent and now < ends_at:
                    self._changed.wait(ends_at - now)
                    continue
            try:
                return self._open(self._lent, self._read_timeout_seconds)
            except SourceFull:
                with self._changed:
                    if not (self._lent or self._idle) or time.monotonic() >= ends_at:
                        raise
                    self._full_until = time.monotonic() + _FULL_SECONDS

    def _take_idle(self) -> Session | None:
        """The one that was used last; those that were idle, or are there, for too long are closed."""
        now = time.monotonic()
        kept = []
        for since, session in self._idle:
            if now - since > _IDLE_SECONDS or now - session.opened_at > _AGE_SECONDS:
                session.close()
            else:
                kept.append((since, session))
        self._idle = kept
        return self._idle.pop()[1] if self._idle else None

    def _give_back(self, session: Session) -> None:
        with self._changed:
            self._lent.discard(session)
            if session.sound and session.epoch == self._epoch and not self._interrupted:
                self._idle.append((time.monotonic(), session))
            else:
                session.close()
            self._changed.notify_all()

    # --- opening them ------------------------------------------------------------------------------------

    def _open(self, lent_to: set[Session], read_timeout_seconds: float) -> Session:
        while True:
            database, epoch = self._now()
            try:
                connection, identity = self._connect(database, read_timeout_seconds)
            except IndexerError as error:
                if self.epoch != epoch:
                    continue  # it was the old settings that failed
                self._note_refusal(error)
                raise
            with self._changed:
                if self._epoch != epoch:  # while it was connected
                    _driver.break_off(connection)
                    continue
                if self._identity is not None and self._identity != identity:
                    self._begin_epoch()
                self._identity = identity
                session = self._made(connection, database, identity, self._epoch)
                lent_to.add(session)
                return session

    def _made(
        self, connection: Connection, database: DatabaseSettings, identity: Identity, epoch: int
    ) -> Session:
        def again() -> Connection:
            fresh, who = self._connect(database, self._read_timeout_seconds)
            with self._changed:
                if self._epoch == epoch and who == identity:
                    return fresh
                if self._epoch == epoch:
                    self._begin_epoch()
                    self._identity = who
            _driver.break_off(fresh)
            raise SourceChanged("Another database server answers now: it's connected to anew.")

        return Session(
            connection,
            database,
            identity,
            epoch,
            is_current=lambda: self._epoch == epoch,
            again=again,
        )

    def _now(self) -> tuple[DatabaseSettings, int]:
        with self._changed:
            if self._interrupted:
                raise Stopped("The program is asked to end.")
            return self._database, self._epoch

    def _connect(
        self, database: DatabaseSettings, read_timeout_seconds: float
    ) -> tuple[Connection, Identity]:
        opening: list[Connection] = []

        def begun(connection: Connection) -> None:
            opening.append(connection)
            with self._changed:
                self._opening.add(connection)

        try:
            connection = connect(database, read_timeout_seconds=read_timeout_seconds, opening=begun)
            try:
                return connection, identity_of(connection, database.name)
            except (pymysql.Error, OSError) as error:
                _driver.break_off(connection)
                raise translate(error, database) from None
        finally:
            with self._changed:
                self._opening.difference_update(opening)

    def _open_apart(self, read_timeout_seconds: float) -> Session:
        """A further session where there is room, else in the place of idle ones; one must be left for the table."""
        waited_until = time.monotonic() + _WAIT_SECONDS
        counted_until = 0.0
        while True:
            try:
                return self._open(self._apart, read_timeout_seconds)
            except SourceFull as error:
                with self._changed:
                    now = time.monotonic()
                    closed = [session for _, session in self._idle[:-1]] if not self._lent else []
                    if self._lent and self._idle:
                        closed = [session for _, session in self._idle]
                    for session in closed:
                        session.close()
                    self._idle = [pair for pair in self._idle if pair[1] not in closed]
                    # One that another thread has just opened or closed is counted too, and is in no list of ours.
                    if closed or not counted_until or (self._opening and now < waited_until):
                        counted_until = now + _COUNTED_SECONDS
                    if now < counted_until:
                        self._changed.wait(_COUNTED_AGAIN_SECONDS)
                    elif len(self._lent) > 1 and now < waited_until:
                        self._changed.wait(waited_until - now)
                        counted_until = time.monotonic() + _COUNTED_SECONDS
                    elif self._lent or self._idle:
                        reason = _ONE_ONLY.format(
                            reason=error, needed=SESSIONS_NEEDED, wanted=SESSIONS_WANTED
                        )
                        raise NoBinlog(reason) from None
                    else:
                        raise

    # --- the end -----------------------------------------------------------------------------------------

    def hang_up(self) -> None:
        """Whatever waits for the database now fails, in any thread."""
        with self._changed:
            for connection in self._opening:
                _driver.hang_up(connection)
            for session in self._lent | self._apart:
                session.hang_up()
            self._changed.notify_all()

    def interrupt(self) -> None:
        """No session is lent any more (Stopped), and those that are lent fail; from any thread."""
        with self._changed:
            self._interrupted = True
        self.hang_up()

    def close(self) -> None:
        """Closes what is idle; a later borrower opens another."""
        with self._changed:
            for _, session in self._idle:
                session.close()
            self._idle.clear()

    @contextmanager
    def impatient(self) -> Iterator[None]:
        """At the end of the program: after END_PATIENCE_SECONDS whatever waits for the database fails, in any thread.

        Over a dead line it would wait for READ_TIMEOUT_SECONDS, and then once more.
        """
        over = threading.Event()

        def give_up() -> None:
            wait = END_PATIENCE_SECONDS
            while not over.wait(wait):
                # Again and again: whoever lost a session may be opening the next one.
                wait = _GIVE_UP_AGAIN_SECONDS
                self.hang_up()

        threading.Thread(target=give_up, name="giving up", daemon=True).start()
        try:
            yield
        finally:
            over.set()

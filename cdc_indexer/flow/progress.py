"""How far we are: claimed rows, open transactions, the position behind them, and what is settled.

The one place where the threads meet. A row is *claimed* by whoever sees it first (stream, audit, `initial`), so that
nobody else sends it, and *settled* once the central index has it or it is parked. The position moves to the end of a
transaction when all rows of it, and of those before it, are settled.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from cdc_indexer.model.position import Identity, Position
from cdc_indexer.model.settled import IntervalSet
from cdc_indexer.state.checkpoint import Checkpoint

#: The outbox's columns: (name, data type, unsigned), in order.
Columns = tuple[tuple[str, str, bool], ...]


class _Transaction:
    __slots__ = ("columns", "open_rows", "position")

    def __init__(self) -> None:
        self.open_rows = 0
        self.position: Position | None = None
        self.columns: Columns | None = None


class Progress:
    """The state that the checkpoint file holds, and what is under way. Thread-safe."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._lock = threading.Lock()
        self._checkpoint = checkpoint
        self._settled = checkpoint.settled
        self._claimed: dict[int, _Transaction | None] = {}
        self._transactions: deque[_Transaction] = deque()
        self._reading = _Transaction()
        self._advance: tuple[datetime, Position | None] | None = None
        self._generation = 1
        self._initial: Callable[[], dict[str, Any]] | None = None

    # --- what is known -----------------------------------------------------------------------------------

    @property
    def identity(self) -> Identity | None:
        """The source that the position belongs to; None before the first contact."""
        return self._checkpoint.identity

    @property
    def position(self) -> Position | None:
        """Where reading the binlog begins again."""
        return self._checkpoint.position

    @property
    def columns(self) -> Columns | None:
        """The outbox's columns at ``position``."""
        return self._checkpoint.columns

    @property
    def until(self) -> datetime:
        """Every row recorded at or before this time (naive UTC) is settled."""
        return self._settled.until

    @property
    def claimed_count(self) -> int:
        """How many rows are in flight or waiting."""
        return len(self._claimed)

    @property
    def initial(self) -> dict[str, Any] | None:
        """How far an unfinished `initial` came."""
        return self._initial() if self._initial is not None else self._checkpoint.initial

    def known(self, row_id: int) -> bool:
        """Whether a row is settled, in flight or waiting."""
        with self._lock:
            return row_id in self._settled or row_id in self._claimed

    def is_settled(self, row_id: int) -> bool:
        """Whether a row is delivered or parked."""
        with self._lock:
            return row_id in self._settled

    def widest_settled(self, count: int) -> list[tuple[int, int]]:
        """Intervals of settled ids that a query may leave out, the widest ones."""
        with self._lock:
            return self._settled.largest(count)

    def unverified(self) -> list[tuple[int, int]]:
        """Intervals of the ids whose first version awaits verification."""
        with self._lock:
            return list(self._checkpoint.unverified)

    def was_sent(self, study_pk: int) -> bool:
        """Whether a study was sent before (kept only where the index can't take a second version)."""
        with self._lock:
            return study_pk in self._checkpoint.sent_pks

    def patient(self, row_id: int) -> tuple[int, IntervalSet] | None:
        """Which studies of a changed patient were sent before a restart: up to this study_pk, and these later ones."""
        with self._lock:
            done = self._checkpoint.patients.get(row_id)
            return done and (done[0], IntervalSet(done[1]))

    def forget_sent(self) -> None:
        """Every study may be sent again: somebody asked for it."""
        with self._lock:
            self._checkpoint.sent_pks = IntervalSet()
            self._generation += 1

    # --- the stream --------------------------------------------------------------------------------------

    def claim(self, row_id: int, *, streamed: bool = False) -> bool:
        """Takes a row for the caller; False when it is settled, or somebody else has it.

        A row that the stream brings belongs to the transaction being read, whoever sends it.
        """
        with self._lock:
            if row_id in self._settled:
                return False
            transaction = self._reading if streamed else None
            if row_id in self._claimed:
                if transaction is not None and self._claimed[row_id] is None:
                    self._claimed[row_id] = transaction
                    transaction.open_rows += 1
                return False
            self._claimed[row_id] = transaction
            if transaction is not None:
                transaction.open_rows += 1
            return True

    def end_transaction(self, position: Position, columns: Columns | None = None) -> None:
        """The stream has read the transaction (or the rotation) that ends at ``position``.

        ``columns`` are the outbox's at that place, None when they aren't known for certain.
        """
        with self._lock:
            reading = self._reading
            if not reading.open_rows:
                if not self._transactions:
                    self._move(position, columns)
                else:
                    # Nothing of ours in it: the one before it may as well end here.
                    self._transactions[-1].position = position
                    self._transactions[-1].columns = columns
                return
            reading.position = position
            reading.columns = columns
            self._transactions.append(reading)
            self._reading = _Transaction()
            self._close_transactions()

    def restart_stream(
        self, position: Position | None, identity: Identity | None = None, columns: Columns | None = None
    ) -> None:
        """A new stream begins at ``position``; with ``identity``, on another server.

        ``columns`` are the outbox's there, if the position is new and they are known.
        """
        with self._lock:
            self._claimed = dict.fromkeys(self._claimed)
            self._transactions.clear()
            self._reading = _Transaction()
            self._advance = None
            if identity is not None:
                self._checkpoint.identity = identity
            if position != self._checkpoint.position:
                self._checkpoint.position = position
                self._checkpoint.columns = columns
            self._generation += 1

    # --- results -----------------------------------------------------------------------------------------

    def settle(
        self,
        rows: Iterable[tuple[int, datetime]],
        *,
        unverified: bool = False,
        sent_pk: int | None = None,
        forget_pk: int | None = None,
    ) -> int:
        """Settles rows (id, recorded_at); returns the generation to wait for.

        ``unverified``: they were sent as recorded, and their row in the view is yet to be read. ``sent_pk``: this
        study is never to be sent again; ``forget_pk``: it may be, it was deleted.
        """
        with self._lock:
            for row_id, recorded_at in rows:
                self._settled.add(row_id, recorded_at)
                transaction = self._claimed.pop(row_id, None)
                if transaction is not None:
                    transaction.open_rows -= 1
                if unverified:
                    self._checkpoint.unverified.add(row_id)
                if self._checkpoint.patients:
                    self._checkpoint.patients.pop(row_id, None)
            if sent_pk is not None:
                self._checkpoint.sent_pks.add(sent_pk)
            if forget_pk is not None:
                self._checkpoint.sent_pks.remove(forget_pk)
            self._close_transactions()
            self._generation += 1
            return self._generation

    def verified(self, row_ids: Iterable[int]) -> int:
        """The view has been read for these rows; returns the generation to wait for."""
        with self._lock:
            for row_id in row_ids:
                self._checkpoint.unverified.remove(row_id)
            self._generation += 1
            return self._generation

    def set_patients(self, done: Mapping[int, tuple[int, IntervalSet]]) -> None:
        """Which studies of changed patients are sent, by the id of the change's row."""
        with self._lock:
            self._checkpoint.patients.update(done)
            self._generation += 1

    def follow_initial(self, initial: Callable[[], dict[str, Any]] | None) -> int:
        """An `initial` begins, and tells when asked how far it came; None: it is done. The generation to wait for."""
        with self._lock:
            self._initial = initial
            self._checkpoint.initial = None
            self._generation += 1
            return self._generation

    def initial_moved(self) -> int:
        """What `initial` tells is further than it was; returns the generation to wait for."""
        with self._lock:
            self._generation += 1
            return self._generation

    # --- the audit ---------------------------------------------------------------------------------------

    def propose_until(self, until: datetime, end: Position | None) -> None:
        """An audit found every row recorded at or before ``until`` settled.

        ``end`` is the end of the binlog after that reading: once the position has passed it, the stream can't bring
        any of those rows again, and their ids are forgotten. None where there is no binlog.
        """
        with self._lock:
            if until > self._settled.until and self._advance is None:
                self._advance = (until, end)
                self._try_advance()

    def take_until_back(self, until: datetime) -> None:
        """The server's clock went back: what is recorded after ``until`` has to be audited again."""
        with self._lock:
            self._advance = None
            self._settled.retreat(until)
            self._generation += 1

    # --- the file ----------------------------------------------------------------------------------------

    @property
    def generation(self) -> int:
        """Grows with everything that the checkpoint file should hold."""
        return self._generation

    def render(self) -> tuple[int, str]:
        """The generation and the text of the checkpoint file."""
        # In this order: what is later than the generation may be in the text, what is earlier must be. And `initial` is
        # asked without our lock, since it has one of its own that it holds when it comes to us.
        generation, initial = self._generation, self._initial
        told = initial() if initial is not None else None
        with self._lock:
            if initial is not None and initial == self._initial:
                self._checkpoint.initial = told
            return generation, self._checkpoint.render()

    # --- inside (the lock is held) -----------------------------------------------------------------------

    def _close_transactions(self) -> None:
        transactions = self._transactions
        while transactions and not transactions[0].open_rows:
            transaction = transactions.popleft()
            assert transaction.position is not None
            self._move(transaction.position, transaction.columns)

    def _move(self, position: Position, columns: Columns | None) -> None:
        self._checkpoint.position = position
        self._checkpoint.columns = columns
        self._generation += 1
        if self._advance is not None:
            self._try_advance()

    def _try_advance(self) -> None:
        assert self._advance is not None
        until, end = self._advance
        position = self._checkpoint.position
        if end is None or position is None or position.order >= end.order:
            self._settled.advance(until)
            self._advance = None
            self._generation += 1

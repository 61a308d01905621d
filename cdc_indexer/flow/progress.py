"""How far we are: claimed rows, open transactions, the position behind them, and what is settled (passive).

A row is *claimed* by whoever sees it first (stream, audit, a page of `initial`), so that nobody else takes it, and *settled*
once the central index has what it hinted at, or that is parked. The position moves to the end of a transaction when all
rows of it, and of those before it, are settled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from typing import Any

from cdc_indexer.model.changes import Changes
from cdc_indexer.model.position import Identity, Position
from cdc_indexer.model.settled import Settled

__all__ = ["Columns", "Progress"]

#: The outbox's columns: (name, data type, unsigned), in order.
Columns = tuple[tuple[str, str, bool], ...]


class _Transaction:
    __slots__ = ("columns", "open_rows", "position")

    def __init__(self) -> None:
        self.open_rows = 0
        self.position: Position | None = None
        self.columns: Columns | None = None


class Progress:
    """See the module.

    What holds always: a row is unknown, claimed or settled; ``position`` is the end of a transaction of which, as of all
    before it, no row is claimed.
    """

    def __init__(
        self,
        settled: Settled,
        identity: Identity | None = None,
        position: Position | None = None,
        columns: Columns | None = None,
    ) -> None:
        self._settled = settled
        self.identity = identity
        #: Where reading the binlog begins again, and the outbox's columns there.
        self.position = position
        self.columns = columns
        self._claimed: dict[int, _Transaction | None] = {}
        self._transactions: deque[_Transaction] = deque()
        self._reading = _Transaction()
        self._advance: tuple[datetime, Position | None] | None = None
        #: Whether identity, position, columns or `until` are other than the durable state has them.
        self.moved = False

    # --- what is known -----------------------------------------------------------------------------------

    @property
    def until(self) -> datetime:
        """Every row recorded at or before this time (naive UTC) is settled."""
        return self._settled.until

    @property
    def claimed_count(self) -> int:
        """How many rows are under way."""
        return len(self._claimed)

    def known(self, row_id: int) -> bool:
        """Whether a row is settled or under way."""
        return row_id in self._settled or row_id in self._claimed

    def is_settled(self, row_id: int) -> bool:
        """Whether a row is delivered or parked."""
        return row_id in self._settled

    def widest_settled(self, count: int) -> list[tuple[int, int]]:
        """Intervals of settled ids that a query may leave out, the widest ones."""
        return self._settled.largest(count)

    # --- the stream --------------------------------------------------------------------------------------

    def claim(self, row_id: int, *, streamed: bool = False) -> bool:
        """Takes a row for the caller; False when it is settled, or somebody else has it.

        A row that the stream brings belongs to the transaction being read, whoever sends it.
        """
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

    def is_streamed(self, row_id: int) -> bool:
        """Whether the stream of now has brought that row, and it is under way: its transaction waits for it."""
        return self._claimed.get(row_id) is not None

    def forget(self, row_ids: Iterable[int]) -> None:
        """These claimed rows are another server's: whoever meets them again may take them."""
        for row_id in row_ids:
            self._claimed.pop(row_id, None)

    def end_transaction(self, position: Position, columns: Columns | None = None) -> None:
        """The stream has read the transaction (or the rotation) that ends at ``position``.

        ``columns`` are the outbox's at that place, None when they aren't known for certain.
        """
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
        """A new stream begins at ``position``; with ``identity``, on that server.

        ``columns`` are the outbox's there, if the position is new and they are known.
        """
        self._claimed = dict.fromkeys(self._claimed)
        self._transactions.clear()
        self._reading = _Transaction()
        self._advance = None
        if identity is not None and identity != self.identity:
            self.identity = identity
            self.moved = True
        if position != self.position:
            self.position = position
            self.columns = columns
            self.moved = True

    # --- results -----------------------------------------------------------------------------------------

    def settle(self, rows: Iterable[tuple[int, datetime]]) -> None:
        """Settles rows (id, recorded_at)."""
        for row_id, recorded_at in rows:
            self._settled.add(row_id, recorded_at)
            transaction = self._claimed.pop(row_id, None)
            if transaction is not None:
                transaction.open_rows -= 1
        self._close_transactions()

    # --- the audit ---------------------------------------------------------------------------------------

    def propose_until(self, until: datetime, end: Position | None) -> None:
        """An audit found every row recorded at or before ``until`` settled.

        ``end`` is the end of the binlog after that reading: once the position has passed it, the stream can't bring
        any of those rows again, and their ids are forgotten. None where there is no binlog.
        """
        if until > self._settled.until and self._advance is None:
            self._advance = (until, end)
            self._try_advance()

    def take_until_back(self, until: datetime) -> None:
        """What is recorded after ``until`` has to be audited again: the clock went back, or it is another server."""
        self._advance = None
        if until < self._settled.until:
            self._settled.retreat(until)
            self.moved = True

    # --- the durable state -------------------------------------------------------------------------------

    def render(self, changes: Changes) -> None:
        """Puts what changed since the last time into ``changes``."""
        changes.settled = self._settled.render_changed()
        if self.moved:
            self.moved = False
            changes.meta["identity"] = asdict(self.identity) if self.identity is not None else None
            changes.meta["position"] = _plain(self.position)
            changes.meta["columns"] = self.columns
            changes.meta["until"] = self._settled.until.isoformat()

    # --- inside ------------------------------------------------------------------------------------------

    def _close_transactions(self) -> None:
        transactions = self._transactions
        while transactions and not transactions[0].open_rows:
            transaction = transactions.popleft()
            assert transaction.position is not None
            self._move(transaction.position, transaction.columns)

    def _move(self, position: Position, columns: Columns | None) -> None:
        self.position = position
        self.columns = columns
        self.moved = True
        if self._advance is not None:
            self._try_advance()

    def _try_advance(self) -> None:
        assert self._advance is not None
        until, end = self._advance
        position = self.position
        if end is None or position is None or position.order >= end.order:
            self._settled.advance(until)
            self._advance = None
            self.moved = True


def _plain(position: Position | None) -> dict[str, Any] | None:
    return asdict(position) if position is not None else None

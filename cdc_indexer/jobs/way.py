"""The way to the central index: open, away or held is said, and a job that somebody waits for doesn't wait for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from cdc_indexer.flow.verdict import Change, Gate
from cdc_indexer.model.errors import FatalError
from cdc_indexer.model.outcome import Refusal

if TYPE_CHECKING:
    from cdc_indexer.flow.observer import Observer

__all__ = ["PATIENCE_SECONDS", "Way"]

log = structlog.get_logger("cdc_indexer")

#: How long the central index may be away before a job that somebody waits for fails.
PATIENCE_SECONDS = 10.0

#: And for how long it may refuse us: other studies are tried in the meantime.
_HELD_PATIENCE_SECONDS = 2.0


class Way:
    """``patience_seconds`` None: it is waited for as long as it takes.

    ``unpark`` is told that what was rejected in the last so many seconds wasn't those studies' fault.
    """

    def __init__(
        self,
        observer: Observer,
        fail: Callable[[BaseException], None],
        unpark: Callable[[float], None],
        patience_seconds: float | None,
    ) -> None:
        self._observer = observer
        self._fail = fail
        self._unpark = unpark
        self._patience_seconds = patience_seconds
        self._impatience: threading.Timer | None = None

    def changed(self, change: Change) -> None:
        """The central index takes what we send, is away, or refuses us; from the thread that sends."""
        gate, reason = change.gate, change.reason
        self._observer.gate(gate, reason, change.refusal)
        if change.unpark_seconds:
            self._unpark(change.unpark_seconds)
        if gate is Gate.OPEN:
            log.info("the central index accepts studies again")
        elif gate is Gate.HELD:
            log.error("held: nothing is sent until this is mended", reason=reason)
        else:
            log.warning("the central index is away; studies wait", reason=reason)
        self.stop()
        if self._patience_seconds is not None and gate is not Gate.OPEN:
            seconds = self._patience_seconds
            if gate is Gate.HELD and change.refusal is not Refusal.REJECTS_ALL:
                seconds = min(seconds, _HELD_PATIENCE_SECONDS)
            self._impatience = threading.Timer(seconds, self._fail, [FatalError(reason)])
            self._impatience.daemon = True
            self._impatience.start()

    def stop(self) -> None:
        """Nobody waits any more."""
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None

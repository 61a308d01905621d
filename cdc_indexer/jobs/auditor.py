"""The thread that audits beside the stream."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import structlog

from cdc_indexer.jobs.audit import Audit
from cdc_indexer.jobs.runner import Runner
from cdc_indexer.model.errors import IndexerError, SourceError, Stopped, StorageError

log = structlog.get_logger("cdc_indexer")

#: After something undecodable was seen a full audit follows the quick one, at most this often.
_FULL_AFTER_QUICK_SECONDS = 5.0

#: A quick audit is done again after this pause, twice that, ... up to the longest.
_QUICK_PAUSE_SECONDS = 0.002
_QUICK_PAUSE_MAX_SECONDS = 0.15


class Auditor:
    """Audits every ``seconds()``, and when asked; ``audited`` is told what each full audit found."""

    def __init__(
        self, audit: Audit, seconds: Callable[[], float], runner: Runner, audited: Callable[[int], None]
    ) -> None:
        self._audit = audit
        self._audited = audited
        self._seconds = seconds
        self._stopping = runner.stopping
        self._failed = runner.fail
        self._quick_at = math.inf
        self._quick_pause = 0.0
        self._full_at = time.monotonic() + seconds()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread unless it runs, or the job is to end; the table was just read, by settings that may be new."""
        # The worker starts it and the main thread stops it, perhaps at once: only a thread that has begun can be joined.
        with self._changed:
            self._full_at = min(self._full_at, time.monotonic() + self._seconds())
            self._changed.notify()
            if self._thread is None and not self._stopping.is_set():
                self._thread = threading.Thread(target=self._work, name="auditor", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Ends the thread; ``stopping`` is set."""
        with self._changed:
            thread = self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join()

    def request_quick(self) -> None:
        """The binlog showed something that can't be decoded: its rows are in the table, or will be in a moment.

        (The server sends a transaction before its rows can be seen.) So it is read at once and a few times more.
        """
        with self._changed:
            self._quick_at = 0.0
            self._quick_pause = _QUICK_PAUSE_SECONDS
            self._full_at = min(self._full_at, time.monotonic() + _FULL_AFTER_QUICK_SECONDS)
            self._changed.notify()

    def request_full(self) -> None:
        """Audit as soon as possible."""
        with self._changed:
            self._full_at = 0.0
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                while (
                    wait := min(self._quick_at, self._full_at) - time.monotonic()
                ) > 0 and not self._stopping.is_set():
                    self._changed.wait(wait)
                if self._stopping.is_set():
                    return
                now = time.monotonic()
                quick, full = now >= self._quick_at, now >= self._full_at
                if quick:
                    again = self._quick_pause <= _QUICK_PAUSE_MAX_SECONDS
                    self._quick_at = now + self._quick_pause if again else math.inf
                    self._quick_pause *= 2
                if full:
                    self._full_at = now + self._seconds()
            try:
                if quick:
                    self._audited(self._audit.quick())
                if full:
                    found = self._audit.full().found
                    self._audited(found)
                    if found:
                        log.info("audit found rows to send", rows=found)
            except Stopped:
                return
            except (SourceError, StorageError) as error:
                # The stream meets the same and says so; the audit after its next connect makes up for this one.
                log.debug("audit failed", reason=str(error))
                with self._changed:
                    self._full_at = min(self._full_at, time.monotonic() + _FULL_AFTER_QUICK_SECONDS)
            except IndexerError as error:
                self._failed(error)
                return

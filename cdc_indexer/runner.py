"""The main thread of a job: waits for signals, ticks, and learns of errors in the other threads."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

from cdc_indexer.errors import IndexerError, Stopped

#: What ends the program (status 0), and what makes it read its files again.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def hold_signals() -> None:
    """From now on signals wait until a Runner asks for them: none can end the program halfway."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


class Runner:
    """One job: a worker thread, and this one. ``stopping`` is set once the job is to end.

    Made before any thread is: they inherit that signals wait.
    """

    def __init__(self) -> None:
        self._signals_before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self.stopping = threading.Event()
        self._error: BaseException | None = None

    def fail(self, error: BaseException) -> None:
        """Ends the job with an error; from any thread."""
        if self._error is None and not isinstance(error, Stopped):
            self._error = error
        self.end()

    def end(self) -> None:
        """Ends the job; from any thread."""
        self.stopping.set()
        # The main thread waits for signals; this one wakes it.
        os.kill(os.getpid(), signal.SIGTERM)

    def run(
        self,
        work: Callable[[], None],
        *,
        tick: Callable[[], None],
        tick_seconds: float,
        hang_up: Callable[[], None],
        clean_up: Callable[[], None],
    ) -> None:
        """Runs ``work`` in a thread until it returns, something fails, or a signal comes; then ``clean_up``.

        Raises what failed. An error in any other thread ends the job as well.
        """

        def guarded() -> None:
            try:
                work()
                self.end()
            except Stopped:
                self.end()
            except IndexerError as error:
                self.fail(error)

        excepthook, threading.excepthook = threading.excepthook, self._thread_died
        worker = threading.Thread(target=guarded, name="worker", daemon=True)
        try:
            worker.start()
            while True:
                received = signal.sigtimedwait(SIGNALS, tick_seconds)
                if received is not None and received.si_signo != signal.SIGHUP:
                    break
                if received is not None:
                    hang_up()
                tick()
        finally:
            self.stopping.set()
            clean_up()
            worker.join()
            tick()
            threading.excepthook = excepthook
            while signal.sigtimedwait(SIGNALS, 0) is not None:
                pass  # our own wake-up, or a second one
            signal.pthread_sigmask(signal.SIG_SETMASK, self._signals_before)
        if self._error is not None:
            raise self._error

    def _thread_died(self, args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            self.fail(args.exc_value)

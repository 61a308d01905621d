"""The main thread of a job: waits for signals, ticks, and learns of errors in the other threads."""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

from cdc_indexer.model.errors import IndexerError, Stopped

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
        #: Numbers of the signals that came; SIGTERM also for an end of our own.
        self._received: queue.SimpleQueue[int] = queue.SimpleQueue()

    def fail(self, error: BaseException) -> None:
        """Ends the job with an error; from any thread."""
        if self._error is None and not isinstance(error, Stopped):
            self._error = error
        self.end()

    def end(self) -> None:
        """Ends the job; from any thread."""
        self.stopping.set()
        self._received.put(signal.SIGTERM)

    def run(
        self,
        work: Callable[[], None],
        *,
        tick: Callable[[], None],
        tick_seconds: float,
        hang_up: Callable[[], None],
        clean_up: Callable[[], None],
        impatient: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        """Runs ``work`` in a thread until it returns, something fails, or a signal comes; then ``clean_up``.

        The thread is waited for inside ``impatient``, which may let fail what it waits for.

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
        listener = threading.Thread(target=self._listen, name="signals", daemon=True)
        try:
            listener.start()
            worker.start()
            while True:
                received = None
                with contextlib.suppress(queue.Empty):
                    received = self._received.get(timeout=tick_seconds)
                if received is not None and received != signal.SIGHUP:
                    break
                if received is not None:
                    hang_up()
                tick()
        finally:
            self.stopping.set()
            clean_up()
            with impatient():
                worker.join()
            tick()
            threading.excepthook = excepthook
            if listener.is_alive() and listener.ident is not None:
                signal.pthread_kill(listener.ident, signal.SIGTERM)
                listener.join()
            while signal.sigtimedwait(SIGNALS, 0) is not None:
                pass  # a second one
            signal.pthread_sigmask(signal.SIG_SETMASK, self._signals_before)
        if self._error is not None:
            raise self._error

    def _listen(self) -> None:
        """Hands signals to the main thread.

        Not sigtimedwait there: after SIGSTOP and SIGCONT, or a machine that slept, CPython returns a signal from it that
        never came when the time is over (cpython's signalmodule.c leaves the loop with nothing filled in).
        """
        while True:
            received = signal.sigwait(SIGNALS)
            self._received.put(received)
            if received != signal.SIGHUP:
                return

    def _thread_died(self, args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            self.fail(args.exc_value)

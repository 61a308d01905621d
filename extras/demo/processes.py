"""Processes that the demo starts, and signals that end it: nothing is left behind, whenever it is stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

_SLICE_SECONDS = 0.05
_SHOWN_LINES = 12
_PATIENCE_SECONDS = 15.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DemoFailed(Exception):
    """The demo can't go on; one sentence for the user, and the end of a log where there is one."""


class Interrupted(Exception):
    """A signal asks for the end."""


class Signals:
    """SIGINT, SIGTERM and SIGHUP only raise a flag: an exception at any point could leave a process unknown to us."""

    def __init__(self) -> None:
        self._asked = False

    def install(self) -> None:
        for number in _SIGNALS:
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def check(self) -> None:
        """Raises Interrupted once a signal came."""
        if self._asked:
            raise Interrupted

    def sleep(self, seconds: float) -> None:
        """Sleeps; raises Interrupted at a signal."""
        end = time.monotonic() + seconds
        while True:
            self.check()
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, _SLICE_SECONDS))


class Process:
    """One child process; what it says goes to a file, or to this terminal with ``log_path`` None."""

    def __init__(
        self,
        what: str,
        command: Sequence[str],
        signals: Signals,
        *,
        directory: Path,
        log_path: Path | None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.what = what
        self._signals = signals
        self._log_path = log_path
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(log_path.open("ab")) if log_path else None
            try:
                self._popen = subprocess.Popen(
                    command,
                    cwd=directory,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **(environment or {})},
                    # Ctrl-C is for the demo, which then ends the others in the right order.
                    start_new_session=True,
                )
            except OSError as error:
                raise DemoFailed(f"{what} can't be started ({command[0]}: {error.strerror}).") from error

    @property
    def ended(self) -> bool:
        return self._popen.poll() is not None

    def check(self) -> None:
        """Raises DemoFailed if it ended, with the last it said."""
        status = self._popen.poll()
        if status is not None:
            how = f"status {status}" if status >= 0 else signal.Signals(-status).name
            raise DemoFailed(f"{self.what} ended by itself ({how}).{self._last_said()}")

    def failure(self, what_happened: str) -> DemoFailed:
        """An error about this process, with the last it said."""
        return DemoFailed(f"{self.what} {what_happened}.{self._last_said()}")

    def _last_said(self) -> str:
        if self._log_path is None:
            return ""
        lines = self._log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-_SHOWN_LINES:]
        return "".join(f"\n    {line}" for line in ["The last it said:", *lines]) if lines else ""

    def wait(self) -> None:
        """Waits for its end; raises Interrupted at a signal, DemoFailed if its status isn't 0."""
        while not self.ended:
            self._signals.sleep(_SLICE_SECONDS)
        if self._popen.returncode != 0:
            self.check()

    def stop(self) -> int:
        """Asks it to end, and kills it when it doesn't; its status, negative for the signal that ended it."""
        if not self.ended:
            self._popen.terminate()
            try:
                self._popen.wait(_PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                self._popen.kill()
        return self._popen.wait()


@contextlib.contextmanager
def running(process: Process) -> Iterator[Process]:
    """Ends the process after the block, whatever happens in it."""
    try:
        yield process
    finally:
        process.stop()

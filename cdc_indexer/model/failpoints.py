"""Places where the fault tests kill the process; nothing happens unless CDC_INDEXER_FAILPOINT names one.

``CDC_INDEXER_FAILPOINT=after_post:3`` ends the process by SIGKILL, as a power cut would, the third time that it comes
to ``after_post``; ``after_post:3:stop`` freezes it there, until it gets SIGCONT. Only tests set it.
"""

from __future__ import annotations

import os
import signal
import threading

VARIABLE = "CDC_INDEXER_FAILPOINT"

_name, _count, _how = [*os.environ.get(VARIABLE, "").split(":"), "", ""][:3]
_left = int(_count) if _count.isdigit() else 1
_lock = threading.Lock()


def seconds(name: str, usual: float) -> float:
    """How long a wait is that a test can't wait for: CDC_INDEXER_TEST_NAME_SECONDS, where that is set."""
    return float(os.environ.get(f"CDC_INDEXER_TEST_{name.upper()}_SECONDS", usual))


def number(name: str, usual: int) -> int:
    """How many, where a test can't have so many: CDC_INDEXER_TEST_NAME, where that is set."""
    return int(os.environ.get(f"CDC_INDEXER_TEST_{name.upper()}", usual))


def hit(name: str) -> None:
    """Says that the program has come to the place ``name``."""
    if name == _name:
        _fall()


def _fall() -> None:
    global _left  # noqa: PLW0603 - one process, one countdown
    with _lock:
        _left -= 1
        if _how == "stop":
            if _left == 0:
                # To this very thread: by another one it would come to a stop a little later.
                signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        elif _left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

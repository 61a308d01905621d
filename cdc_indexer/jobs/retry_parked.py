"""`parked retry`, where no `run` does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cdc_indexer.jobs.engine import PATIENCE_SECONDS, Engine
from cdc_indexer.jobs.runner import Runner
from cdc_indexer.model.errors import AlreadyRunning, Stopped
from cdc_indexer.state.lock import StateLock

if TYPE_CHECKING:
    from cdc_indexer.model.settings import Settings


def retry_parked(settings: Settings) -> bool:
    """Sends the parked studies that are marked, unless a running `run` does; whether it was done here.

    Raises FatalError when the central index is away or refuses us.
    """
    lock = StateLock(settings.state_dir, "parked retry")
    try:
        lock.acquire()
    except AlreadyRunning:
        if lock.held_by == "run":
            return False
        raise
    try:
        runner = Runner()
        engine = Engine(settings, runner, reload=lambda: None, patience_seconds=PATIENCE_SECONDS)

        def work() -> None:
            while engine.parked_store.requested(limit=1) or not engine.idle:
                engine.retry_parked()
                if runner.stopping.wait(0.05):
                    raise Stopped

        engine.start()
        runner.run(work, tick=lambda: None, tick_seconds=1.0, hang_up=lambda: None, clean_up=engine.stop)
    finally:
        lock.release()
    return True

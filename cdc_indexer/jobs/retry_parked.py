"""`parked retry`, where no `run` does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cdc_indexer.jobs.engine import Engine
from cdc_indexer.jobs.runner import Runner
from cdc_indexer.jobs.way import PATIENCE_SECONDS
from cdc_indexer.model.errors import AlreadyRunning, Stopped
from cdc_indexer.source.outbox import Outbox
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
            engine.measure_clock(Outbox(engine.source).now())
            with engine.inside() as core:
                core.hurry()
            while engine.retries.pending or not engine.at_rest():
                engine.tick()
                engine.writer.request(engine.core.parts.results.generation)
                if runner.stopping.wait(0.05):
                    raise Stopped

        engine.start()
        runner.run(
            work,
            tick=lambda: None,
            tick_seconds=1.0,
            hang_up=lambda: None,
            clean_up=engine.stop,
            impatient=engine.source.impatient,
        )
    finally:
        lock.release()
    return True

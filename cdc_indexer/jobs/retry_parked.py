"""`parked retry`, where no `run` does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cdc_indexer.jobs.alone import Alone, no_run_active
from cdc_indexer.model.errors import Stopped

if TYPE_CHECKING:
    from cdc_indexer.model.settings import Settings


def retry_parked(settings: Settings) -> bool:
    """Sends the parked studies that are marked, unless a running `run` does; whether it was done here.

    Raises FatalError when the central index is away or refuses us.
    """
    with no_run_active(settings.state_dir, "parked retry") as free:
        if not free:
            return False
        alone = Alone(settings)
        engine = alone.engine

        def work() -> None:
            engine.measure_clock()
            with engine.inside() as core:
                core.hurry()
            while engine.retries.pending or not engine.at_rest():
                engine.writer.request(engine.core.parts.results.generation)
                if engine.stopping.wait(0.05):
                    raise Stopped

        # Each tick takes up some of those that are marked.
        alone.run(work, tick_seconds=0.05)
    return True

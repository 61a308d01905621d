"""A command at work in a process of its own, where no `run` is active."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cdc_indexer.jobs.engine import Engine
from cdc_indexer.jobs.runner import Runner
from cdc_indexer.jobs.way import PATIENCE_SECONDS
from cdc_indexer.model.errors import AlreadyRunning
from cdc_indexer.state.lock import StateLock

if TYPE_CHECKING:
    from cdc_indexer.model.settings import Settings

__all__ = ["Alone", "no_run_active"]


@contextmanager
def no_run_active(state_dir: Path, name: str) -> Iterator[bool]:
    """The state directory is this command's for the block. False: a `run` has it, and may do what is wanted.

    Raises AlreadyRunning when another command has it, StateError when nobody can have it.
    """
    lock = StateLock(state_dir, name)
    try:
        lock.acquire()
    except AlreadyRunning:
        if lock.held_by != "run":
            raise
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


class Alone:
    """An engine that somebody waits for. ``anew``: see Engine."""

    def __init__(self, settings: Settings, *, anew: bool = False) -> None:
        self._runner = Runner()
        self.engine = Engine(
            settings, self._runner, reload=lambda: None, patience_seconds=PATIENCE_SECONDS, anew=anew
        )

    def run(
        self,
        work: Callable[[], None],
        show: Callable[[], None] = lambda: None,
        *,
        tick_seconds: float = 0.25,
    ) -> None:
        """Does ``work`` in a thread, and calls ``show`` at each tick and at the end. Raises what failed."""
        engine, stopping = self.engine, self._runner.stopping

        def tick() -> None:
            if not stopping.is_set():
                engine.tick()
            show()

        engine.start()
        self._runner.run(
            work,
            tick=tick,
            tick_seconds=tick_seconds,
            hang_up=lambda: None,
            clean_up=engine.stop,
            impatient=engine.source.impatient,
        )

"""Between the core and the thread that sends: what to send, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from cdc_indexer.delivery._senders import Client, Senders, Work
from cdc_indexer.model.outcome import Outcome

if TYPE_CHECKING:
    from cdc_indexer.jobs.engine import Engine

__all__ = ["Sending"]


class Sending:
    """Asks the core what is to be sent (``Queue`` of delivery/), and tells it what is durable (``Durable``)."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._has_written: Callable[[int], None] = lambda generation: None
        self._senders = Senders(
            self,
            engine.make_webservice,
            self,
            engine.observer.answered,
            batches=engine.settings.delivery.batch_size > 1,
        )

    def start(self) -> None:
        """Starts the thread."""
        self._senders.start()

    def stop(self) -> None:
        """Lets what is in flight finish and become durable, and ends the thread."""
        self._senders.stop()

    def use(self, make_client: Callable[[], Client]) -> None:
        """Other clients from the next request on, which may go at once."""
        self._senders.use(make_client)
        self._senders.wake()

    def wake(self) -> None:
        """There may be something to send."""
        self._senders.wake()

    # --- the queue ---------------------------------------------------------------------------------------

    def take(self) -> tuple[list[Work], float]:
        """What is to be sent now, one for each slot that is free, and the seconds until there may be more."""
        engine = self._engine
        with engine.inside() as core:
            if engine.stopping.is_set() or engine.storage_failing:
                return [], 1.0
            sends, seconds = core.take_sends(engine.now())
        return [Work(send) for send in sends], seconds

    def asks(self, outcomes: Sequence[Outcome]) -> bool:
        """Whether the index is to be asked by GET before these can be judged."""
        with self._engine.inside() as core:
            return core.asks(outcomes, self._engine.now())

    def judge(self, work: Work, outcomes: Sequence[Outcome], asked: Outcome | None = None) -> int | None:
        """What came of it; the generation that has to be durable before its slot is free, None: it is."""
        engine = self._engine
        with engine.inside() as core:
            generation, changes = core.judge(work.send, outcomes, engine.now(), began=work.began, asked=asked)
        for change in changes:
            engine.gate_changed(change)
        return generation

    def before_probe(self) -> None:
        """The next one is tried: with corrected files, perhaps. (Nobody answers at a wrong address either.)"""
        self._engine.reload()

    # --- the disk ----------------------------------------------------------------------------------------

    @property
    def write_seconds(self) -> float:
        """How long the last write took."""
        return self._engine.writer.write_seconds

    def request(self, generation: int) -> None:
        """Asks for a generation to be written."""
        self._engine.writer.request(generation)

    def wait(self, generation: int) -> None:
        """Returns once it is written; Stopped when it can't be before the end."""
        self._engine.writer.wait(generation)

    def listen(self, written: Callable[[int], None]) -> None:
        """``written`` is called with each generation that is on the disk, once the core knows."""
        self._has_written = written

    def has_written(self, generation: int) -> None:
        """That generation is on the disk."""
        self._has_written(generation)

    def release(self, works: Iterable[Work]) -> None:
        """The core has freed their slots already."""

"""Between the core and the thread that sends: what to send, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING

import structlog

from cdc_indexer.delivery._senders import Senders
from cdc_indexer.delivery._work import Client, Delivery, Work
from cdc_indexer.delivery.batch import batch, refused_as_such
from cdc_indexer.delivery.features import Known
from cdc_indexer.delivery.webservice import Request, Webservice
from cdc_indexer.flow.order import Send
from cdc_indexer.model.outcome import Kind, Outcome

if TYPE_CHECKING:
    from cdc_indexer.flow.verdict import Change
    from cdc_indexer.jobs.shared import Shared

__all__ = ["Sending"]

log = structlog.get_logger("cdc_indexer")


class Sending:
    """Asks the core what is to be sent (``Queue`` of delivery/), and tells it what is durable (``Durable``)."""

    def __init__(
        self,
        shared: Shared,
        on_gate: Callable[[Change], None],
        known: Known,
        reload: Callable[[], None],
        *,
        ask_first: bool,
    ) -> None:
        self._shared = shared
        self._on_gate = on_gate
        self._reload = reload
        #: What the index at this address is known to do.
        self.known = known
        known.on_change = self._keep
        self._senders = Senders(self, self._make_client, self, shared.observer.answered, ask_first=ask_first)

    def _make_client(self) -> Client:
        return Webservice(self._shared.settings, self.known)

    def _keep(self, known: Known) -> None:
        """What was learned is kept with the address; the next write will do."""
        if known is self.known:
            with self._shared.inside() as core:
                core.parts.results.set(
                    "index", {"url": self._shared.settings.webservice_url, **known.as_dict()}
                )

    def start(self) -> None:
        """Starts the thread."""
        self._senders.start()

    def stop(self) -> None:
        """Lets what is in flight finish and become durable, and ends the thread."""
        self._senders.stop()

    def reconfigure(self, *, other_address: bool) -> None:
        """Clients with other settings from the next request on, which may go at once."""
        if other_address:
            self.known.on_change = lambda known: None
            self.known = Known(on_change=self._keep)
        self._senders.use(self._make_client, ask_first=other_address)
        self._senders.wake()

    def ask(self) -> None:
        """Asks the index by GET what it can; what it says is in ``known`` then."""
        webservice = Webservice(self._shared.settings, self.known)
        try:
            webservice.probe()
        finally:
            webservice.close()

    def wake(self) -> None:
        """There may be something to send."""
        self._senders.wake()

    # --- the queue ---------------------------------------------------------------------------------------

    def take(self) -> tuple[list[Work], float]:
        """What is to be sent now, one for each slot that is free, and the seconds until there may be more."""
        shared = self._shared
        auto = shared.settings.delivery.batch_size == "auto"
        with shared.inside() as core:
            if shared.stopping.is_set() or shared.storage.failing:
                return [], 1.0
            core.parts.order.batch_size = self._largest
            core.parts.order.only_when_crowded = auto
            sends, seconds = core.take_sends(shared.now())
        versions = self.known.versions_seen
        for send in sends:
            for delivery in send.deliveries:
                delivery.study_version = delivery.version if versions else None
        return [Work(send) for send in sends], seconds

    @property
    def _largest(self) -> int:
        size = self._shared.settings.delivery.batch_size
        return self.known.largest_batch if size == "auto" else size

    def job(self, deliveries: Sequence[Delivery]) -> Generator[Request, Outcome, list[Outcome]] | None:
        """How these are sent if not as one object."""
        auto = self._shared.settings.delivery.batch_size == "auto"
        versioned = not self.known.versions_forgotten
        if len(deliveries) > 1:
            return batch(deliveries, halves=not auto, versioned=versioned)
        # With a number an array it is, of one as well; a deletion never is.
        as_array = not auto and self._largest > 1 and deliveries[0].body is not None
        return batch(deliveries, versioned=versioned) if as_array else None

    def asks(self, outcomes: Sequence[Outcome]) -> bool:
        """Whether the index is to be asked by GET before these can be judged."""
        if outcomes[0].kind is Kind.ACCEPTED:  # nearly always; the core says the same
            return False
        with self._shared.inside() as core:
            return core.asks(outcomes, self._shared.now())

    def judge(self, work: Work, outcomes: Sequence[Outcome], asked: Outcome | None = None) -> int | None:
        """What came of it; the generation that has to be durable before its slot is free, None: it is."""
        shared = self._shared
        if len(outcomes) > 1 and shared.settings.delivery.batch_size == "auto":
            if refused_as_such(outcomes):
                self.known.array_refused()
            elif outcomes[0].kind is Kind.ACCEPTED:
                self.known.array_taken()
        assert isinstance(work.send, Send)
        with shared.inside() as core:
            generation, changes = core.judge(work.send, outcomes, shared.now(), began=work.began, asked=asked)
            puzzling, core.looks.puzzling = core.looks.puzzling, []
        for study_pk in puzzling:
            log.warning(
                "the central index answers that it has a newer version of a study, and not which",
                study_pk=study_pk,
                reason="it is read and sent again, at most once a minute: ask whoever runs the index to name it in its 409",
            )
        for change in changes:
            self._on_gate(change)
        if generation is not None:
            shared.durable_already(generation)
        return generation

    def before_probe(self) -> None:
        """The next one is tried: with corrected files, perhaps. (Nobody answers at a wrong address either.)"""
        self._reload()

    # --- the disk ----------------------------------------------------------------------------------------

    @property
    def write_seconds(self) -> float:
        """How long the last write took."""
        return self._shared.writer.write_seconds

    def request(self, generation: int) -> None:
        """Asks for a generation to be written."""
        self._shared.writer.request(generation)

    def wait(self, generation: int) -> None:
        """Returns once it is written; Stopped when it can't be before the end."""
        self._shared.writer.wait(generation)

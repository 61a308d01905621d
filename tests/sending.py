"""What sends, without an archive and a state: order, gate and senders as an engine drives them."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cdc_indexer.delivery._work import Client as AnyClient
from cdc_indexer.delivery.features import Known
from cdc_indexer.delivery.webservice import Webservice
from cdc_indexer.flow.case import Case, Hints
from cdc_indexer.flow.gate import Gatekeeper
from cdc_indexer.flow.observer import Observer
from cdc_indexer.flow.order import Delivery, Order, Send
from cdc_indexer.flow.verdict import Change, Gate
from cdc_indexer.jobs.sending import Sending
from cdc_indexer.model.ledger import Entry
from cdc_indexer.model.moment import Now
from cdc_indexer.model.outcome import Kind, Outcome
from cdc_indexer.model.settings import Settings, load_settings
from tests.blocking import Disk
from tests.indexer import KEY
from tests.receiver import Receiver


def settings(directory: Path, url: str, **delivery: Any) -> Settings:
    """For an index at ``url``."""
    (directory / "server.json").write_text('{"server": "000"}')
    (directory / "config.json").write_text(
        json.dumps(
            {
                "database": {"host": "127.0.0.1", "user": "u", "password": "p", "name": "pacs"},
                "key": KEY,
                "webservice_url": url,
                "delivery": {"timeout_seconds": 5, **delivery},
            }
        )
    )
    return load_settings(directory / "config.json")


def delivery_of(uid: str, body: bytes | None, *, version: int = 0) -> Delivery:
    """A study's first version."""
    return Delivery(
        case=Case(uid, 1, uid),
        hints=Hints(),
        idempotency_key=f"key-{uid}",
        body=body,
        version=version,
        entry=Entry(uid, 1, version),
        before=None,
        digest=b"",
        first_version=True,
    )


class Core:
    """The part of the core that sends: what is final is told to ``finished``, and holds its slot until it is durable."""

    def __init__(self, order: Order, finished: Callable[[Delivery, Outcome], int]) -> None:
        self.kept: dict[str, Any] = {}
        self.looks = SimpleNamespace(puzzling=[])
        self._order = order
        self.parts = SimpleNamespace(order=order, results=SimpleNamespace(set=self.kept.__setitem__))
        self._finished = finished
        self._waiting: deque[tuple[int, Send]] = deque()

    def take_sends(self, now: Now) -> tuple[list[Send], float]:
        return self._order.take(now.seconds)

    def asks(self, outcomes: Sequence[Outcome], now: Now) -> bool:
        return self._order.asks(outcomes, now.seconds)

    def judge(
        self, send: Send, outcomes: Sequence[Outcome], now: Now, *, began: float, asked: Outcome | None
    ) -> tuple[int | None, list[Change]]:
        changes = self._order.judge(send, outcomes, began=began, now=now.seconds, asked=asked)
        if not send.final:
            return None, changes
        generation = max(self._finished(delivery, outcome) for delivery, outcome in send.final)
        self._waiting.append((generation, send))
        return generation, changes

    def durable(self, generation: int) -> None:
        while self._waiting and self._waiting[0][0] <= generation:
            self._order.release(self._waiting.popleft()[1])


class Shared:
    """What Sending asks of what the threads share."""

    def __init__(self, core: Core, config: Settings, disk: Disk) -> None:
        self._core = core
        self._lock = threading.Lock()
        self.settings = config
        self.writer = disk
        self.observer = Observer()
        self.stopping = threading.Event()
        self.storage = SimpleNamespace(failing=False)

    @contextmanager
    def inside(self) -> Iterator[Core]:
        with self._lock:
            yield self._core

    def now(self) -> Now:
        return Now(time.monotonic(), int(time.time() * 1_000_000))

    def durable_already(self, generation: int) -> None:
        """Nothing is before it was asked for."""


class _Sending(Sending):
    """With clients of a test's own, perhaps."""

    def __init__(
        self,
        shared: Shared,
        on_gate: Callable[[Change], None],
        known: Known,
        before_probe: Callable[[], None],
        ask_first: bool,
        make_client: Callable[[], AnyClient] | None,
    ) -> None:
        self._config = shared.settings
        self._make = make_client
        super().__init__(shared, on_gate, known, before_probe, ask_first=ask_first)  # type: ignore[arg-type]

    def _make_client(self) -> AnyClient:
        return Webservice(self._config, self.known) if self._make is None else self._make()


class Dispatcher:
    """Order and senders together; ``finished`` is told what is final, and gives the generation that holds it."""

    def __init__(
        self,
        config: Settings,
        finished: Callable[[Delivery, Outcome], int],
        *,
        make_client: Callable[[], AnyClient] | None = None,
        known: Known | None = None,
        durable: Disk | None = None,
        concurrency: int = 8,
        give_up_seconds: float = 3600.0,
        ask_first: bool = False,
        on_gate: Callable[[Change], None] = lambda change: None,
        before_probe: Callable[[], None] = lambda: None,
    ) -> None:
        keeper = Gatekeeper(give_up_seconds, concurrency, random.Random(1))
        self.order = Order(keeper, concurrency)
        self.core = Core(self.order, finished)
        disk = durable or Disk()
        self._shared = Shared(self.core, config, disk)
        disk.listen(self._written)
        self._sending = _Sending(
            self._shared, on_gate, known or Known(), before_probe, ask_first, make_client
        )

    @property
    def gate(self) -> Gate:
        return self.order.gate

    def start(self) -> None:
        self._sending.start()

    def stop(self) -> None:
        self._shared.stopping.set()
        self._sending.stop()

    def submit(self, *deliveries: Delivery) -> None:
        with self._shared.inside():
            for delivery in deliveries:
                self.order.submit(delivery)
        self._sending.wake()

    def mended(self) -> None:
        """Somebody corrected the settings."""
        with self._shared.inside():
            self.order.keeper.mended()
        self._sending.reconfigure(other_address=False)

    def _written(self, generation: int) -> None:
        with self._shared.inside() as core:
            core.durable(generation)
        self._sending.wake()


@dataclass
class Sender:
    """A dispatcher, and what it was told of each study."""

    receiver: Receiver
    changes: list[Change] = field(default_factory=list)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    began: dict[str, float] = field(default_factory=dict)
    dispatcher: Dispatcher = field(init=False)

    @classmethod
    def start(
        cls, directory: Path, receiver: Receiver, *, batch_size: int | str = 1, **options: Any
    ) -> Sender:
        sender = cls(receiver)
        config = settings(directory, receiver.url, batch_size=batch_size)
        sender.dispatcher = Dispatcher(config, sender._finished, on_gate=sender.changes.append, **options)
        return sender

    def send(self, *uids: str, version: int = 0) -> None:
        self.began.update(dict.fromkeys(uids, time.monotonic()))
        self.dispatcher.submit(
            *(delivery_of(uid, json.dumps({"study_iuid": uid}).encode(), version=version) for uid in uids)
        )

    def _finished(self, delivery: Delivery, outcome: Outcome) -> int:
        self.outcomes[delivery.key] = outcome
        self.seconds[delivery.key] = time.monotonic() - self.began[delivery.key]
        return len(self.outcomes)

    def of(self, kind: Kind) -> set[str]:
        return {uid for uid, outcome in list(self.outcomes.items()) if outcome.kind is kind}

    def wait(self, until: Callable[[], object], what: str, seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline, f"{what}: {self.outcomes}, {self.changes}"
            time.sleep(0.01)

    def closes(self, gate: Gate) -> None:
        self.wait(lambda: self.dispatcher.gate is gate, gate.value)

"""What the thread that sends works on and with: what is in a slot, and the seams to queue, connection and disk."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from cdc_indexer.model.outcome import Outcome

if TYPE_CHECKING:
    from cdc_indexer.delivery.dispatcher import Delivery
    from cdc_indexer.delivery.webservice import Request


class Client(Protocol):
    """One connection and the request on it: see Webservice. Only ``connect`` may wait; nothing raises."""

    expires_at: float
    #: The request is to be sent once more, on a new connection, instead of what its outcome says.
    again: bool

    @property
    def events(self) -> int: ...
    @property
    def ready(self) -> bool: ...
    def fileno(self) -> int: ...
    def connect(self) -> Outcome | None: ...
    def begin(self, request: Request) -> Outcome | None: ...
    def advance(self) -> Outcome | None: ...
    def expire(self) -> Outcome: ...
    def close(self) -> None: ...


class Durable(Protocol):
    """Where results become durable: see CheckpointWriter."""

    @property
    def write_seconds(self) -> float:
        """How long the last write took."""

    def request(self, generation: int) -> None:
        """Asks for a generation to be written."""

    def wait(self, generation: int) -> None:
        """Returns once it is written; Stopped when it can't be before the end."""

    def listen(self, written: Callable[[int], None]) -> None:
        """``written`` is called, from any thread, with each generation that is on the disk."""


class Work:
    """What holds one slot: deliveries that go in one request."""

    __slots__ = ("asking", "began", "client", "deliveries", "final", "job", "probe", "request", "started")

    def __init__(self, deliveries: list[Delivery], probe: bool) -> None:
        self.deliveries = deliveries
        self.probe = probe
        #: The deliveries that are done with, whatever came of them.
        self.final: Iterable[Delivery] = ()
        self.job: Generator[Request, Outcome, list[Outcome]] | None = None
        self.client: Client | None = None
        self.request: Request | None = None
        #: When it began, connecting included, and when the present request did.
        self.began = 0.0
        self.started = 0.0
        #: What came of it, while the index is asked by GET what that means.
        self.asking: list[Outcome] | None = None


class Queue(Protocol):
    """Who has the deliveries: see Dispatcher. All but ``before_probe`` are quick."""

    def take(self) -> tuple[list[Work], float]:
        """What is to be sent now, one for each slot that is free, and the seconds until there may be more."""

    def asks(self, outcomes: Sequence[Outcome]) -> bool:
        """Whether the index is to be asked by GET before these can be judged."""

    def job(self, deliveries: list[Delivery]) -> Generator[Request, Outcome, list[Outcome]] | None:
        """How these are sent if not as one object."""

    def judge(self, work: Work, outcomes: Sequence[Outcome], asked: Outcome | None = None) -> int | None:
        """What came of it, ``asked`` what a GET gave.

        The generation that must be durable before ``release``, None when nothing is final.
        """

    def release(self, works: Iterable[Work]) -> None:
        """Their results are durable."""

    def before_probe(self) -> None:
        """The next one is tried while the index refuses us."""

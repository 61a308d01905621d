"""What the thread that sends works on and with: what is in a slot, and the seams to queue, connection and disk."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Protocol

from cdc_indexer.model.outcome import Outcome

if TYPE_CHECKING:
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
    """Where results become durable: see Writer."""

    @property
    def write_seconds(self) -> float:
        """How long the last write took."""

    def request(self, generation: int) -> None:
        """Asks for a generation to be written."""

    def wait(self, generation: int) -> None:
        """Returns once it is written; Stopped when it can't be before the end."""


class Delivery(Protocol):
    """One document on its way, or with ``body`` None a deletion."""

    @property
    def body(self) -> bytes | None: ...
    @property
    def idempotency_key(self) -> str: ...
    @property
    def study_iuid(self) -> str: ...
    @property
    def study_version(self) -> int | None: ...


class Send(Protocol):
    """What the queue gives a slot to; ``probe``: while the index is away or refuses us."""

    @property
    def deliveries(self) -> Sequence[Delivery]: ...
    @property
    def probe(self) -> bool: ...


class Work:
    """What holds one slot: ``send`` is what the queue knows it by, None for a question of ours."""

    __slots__ = ("asking", "began", "client", "deliveries", "job", "probe", "request", "send", "started")

    def __init__(self, send: Send | None) -> None:
        self.send = send
        self.deliveries = send.deliveries if send is not None else ()
        self.probe = send is not None and send.probe
        self.job: Generator[Request, Outcome, list[Outcome]] | None = None
        self.client: Client | None = None
        self.request: Request | None = None
        #: When it began, connecting included, and when the present request did.
        self.began = 0.0
        self.started = 0.0
        #: What came of it, while the index is asked by GET what that means.
        self.asking: list[Outcome] | None = None


class Queue(Protocol):
    """Who has the deliveries: see jobs/sending.py. All but ``before_probe`` are quick."""

    def take(self) -> tuple[list[Work], float]:
        """What is to be sent now, one for each slot that is free, and the seconds until there may be more."""

    def asks(self, outcomes: Sequence[Outcome]) -> bool:
        """Whether the index is to be asked by GET before these can be judged."""

    def job(self, deliveries: Sequence[Delivery]) -> Generator[Request, Outcome, list[Outcome]] | None:
        """How these are sent if not as one object."""

    def judge(self, work: Work, outcomes: Sequence[Outcome], asked: Outcome | None = None) -> int | None:
        """What came of it, ``asked`` what a GET gave.

        The generation that must be durable before its slot is free, None: it is.
        """

    def before_probe(self) -> None:
        """The next one is tried while the index refuses us."""

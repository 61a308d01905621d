"""The dispatcher and a real central index, without an archive: what is told of each study, and how long it took."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdc_indexer.delivery.dispatcher import Delivery, Dispatcher

from cdc_indexer.delivery.features import Known
from cdc_indexer.delivery.webservice import Webservice
from cdc_indexer.flow.gate import Change, Gate
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


@dataclass
class Sender:
    """A dispatcher, and what it was told of each study."""

    receiver: Receiver
    dispatcher: Dispatcher
    changes: list[Change]
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def start(cls, directory: Path, receiver: Receiver, **options: Any) -> Sender:
        config = settings(directory, receiver.url)
        known = options.setdefault("known", Known())
        changes: list[Change] = []
        dispatcher = Dispatcher(
            lambda: Webservice(config, known),
            **{
                "durable": Disk(),
                "concurrency": 8,
                "give_up_seconds": 3600.0,
                "on_gate": changes.append,
                "rng": random.Random(1),
                **options,
            },
        )
        return cls(receiver, dispatcher, changes)

    def send(self, *uids: str, version: int | None = None) -> None:
        for uid in uids:
            self.dispatcher.submit(
                Delivery(
                    key=uid,
                    study_pk=1,
                    study_iuid=uid,
                    idempotency_key=f"key-{uid}",
                    body=json.dumps({"study_iuid": uid}).encode(),
                    rows=(),
                    first_version=True,
                    finished=self._finisher(time.monotonic()),
                    version=version,
                )
            )

    def _finisher(self, began: float) -> Callable[[Delivery, Outcome], int]:
        def finished(delivery: Delivery, outcome: Outcome) -> int:
            self.outcomes[delivery.key] = outcome
            self.seconds[delivery.key] = time.monotonic() - began
            return len(self.outcomes)

        return finished

    def of(self, kind: Kind) -> set[str]:
        return {uid for uid, outcome in list(self.outcomes.items()) if outcome.kind is kind}

    def wait(self, until: Callable[[], object], what: str, seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline, f"{what}: {self.outcomes}, {self.changes}"
            time.sleep(0.01)

    def closes(self, gate: Gate) -> None:
        self.wait(lambda: self.dispatcher.gate is gate, gate.value)

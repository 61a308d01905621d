"""`resend`: sends chosen studies again whatever the ledger says; alone, or by the `run` that is active."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING, NamedTuple

import structlog

from cdc_indexer.flow.backfill import Backfill
from cdc_indexer.flow.case import Insist
from cdc_indexer.jobs.alone import Alone
from cdc_indexer.jobs.backfill import InitialOptions, take_position
from cdc_indexer.jobs.engine import Engine
from cdc_indexer.model.errors import Stopped
from cdc_indexer.model.study import names
from cdc_indexer.source.outbox import Outbox
from cdc_indexer.source.source import Source
from cdc_indexer.state.requests import ResendRequest

if TYPE_CHECKING:
    from cdc_indexer.model.settings import Settings

__all__ = ["Chosen", "Resend", "ResendOptions", "choose", "resend_alone"]

log = structlog.get_logger("cdc_indexer")

_PAGE = 200

#: (study_iuid, study_pk).
Chosen = tuple[str, int]


class ResendOptions(NamedTuple):
    """Which studies: by UID, by patient id, or by the day of their study_datetime (both days included)."""

    study_iuids: tuple[str, ...] = ()
    patient_ids: tuple[str, ...] = ()
    since: date | None = None
    until: date | None = None

    def request(self, number: str) -> ResendRequest:
        """The request to a running `run`."""
        return ResendRequest(
            id=number,
            study_iuids=self.study_iuids,
            patient_ids=self.patient_ids,
            since=self.since,
            until=self.until,
        )

    @classmethod
    def of(cls, request: ResendRequest) -> ResendOptions:
        """What a request asks for."""
        return cls(request.study_iuids, request.patient_ids, request.since, request.until)


def choose(outbox: Outbox, options: ResendOptions) -> Iterator[list[Chosen]]:
    """The studies that are meant, page by page; raises SourceError."""
    for start in range(0, len(options.study_iuids), _PAGE):
        yield [names(study) for study in outbox.view_of(options.study_iuids[start : start + _PAGE])]
    for patient_id in options.patient_ids:
        yield [names(study) for study in outbox.view_of_patient_id(patient_id)]
    if options.since is None and options.until is None:
        return
    days = InitialOptions(since=options.since, until=options.until)
    after_pk = 0
    while page := outbox.view_after(after_pk, _PAGE):
        yield [names(study) for study in page if days.wants(study)]
        after_pk = names(page[-1])[1]
        if len(page) < _PAGE:
            return


class Resend:
    """One resending. ``feed`` returns when all of it is settled and durable; what is interrupted is asked for again."""

    NAME = "resend"

    def __init__(self, engine: Engine, options: ResendOptions, number: str) -> None:
        self._engine = engine
        self._options = options
        # The number makes the Idempotency-Keys: the same after a restart that takes the request up again.
        self.backfill = Backfill(self.NAME, number, {})

    def feed(self) -> None:
        """Raises SourceError, Stopped."""
        engine = self._engine
        for page in choose(Outbox(engine.source), self._options):
            for study_iuid, study_pk in page:
                engine.wait_for_room_behind()
                with engine.inside() as core:
                    core.backfills.hint(
                        study_iuid,
                        study_pk,
                        engine.now(),
                        backfill=self.backfill,
                        insist=Insist.RESEND,
                        seed=f"resend:{self.backfill.run}",
                    )
        while self.backfill.open:
            if engine.stopping.wait(0.02):
                raise Stopped
        engine.flush()


def chosen(settings: Settings, options: ResendOptions) -> list[Chosen]:
    """The studies that would be sent."""
    source = Source(settings.database)
    try:
        return [one for page in choose(Outbox(source), options) for one in page]
    finally:
        source.close()


def resend_alone(settings: Settings, options: ResendOptions) -> tuple[int, int]:
    """Where no `run` is active: how many were sent, and parked. Raises FatalError, SourceError."""
    alone = Alone(settings)
    job = Resend(alone.engine, options, str(uuid.uuid4()))

    def work() -> None:
        take_position(alone.engine)
        job.feed()

    alone.run(work)
    return job.backfill.sent, job.backfill.parked

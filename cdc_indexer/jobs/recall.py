"""What the durable state says at the start, and whether it is of this centre and this index."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from cdc_indexer.flow.progress import Columns
from cdc_indexer.model.errors import FatalError, StateError
from cdc_indexer.model.position import Identity, Position
from cdc_indexer.model.settled import EPOCH, Settled
from cdc_indexer.model.study import DOCUMENT_FORMAT
from cdc_indexer.model.version import VersionClock
from cdc_indexer.state.store import LEDGER_DAMAGED

if TYPE_CHECKING:
    from cdc_indexer.model.settings import Settings
    from cdc_indexer.state.store import Store

__all__ = ["DOCUMENT", "FIRST_PK", "MOVED", "OTHER_INDEX", "Recalled", "other_document", "recall"]

log = structlog.get_logger("cdc_indexer")

OTHER_INDEX = (
    "webservice_url is another one than the studies were sent to so far. If the same index has moved, say so once "
    "with `run --same-index`; if it is another index, send it everything with `initial --restart`."
)

MOVED = (
    "webservice_url has changed while studies go there: it is taken for the same index, moved. If it is another index, send "
    "it everything with `initial --restart`"
)

_CENTER = "center"
#: Whether an index has ever taken something of this ledger; a state of before it was kept doesn't say.
_TAKEN = "ledger_taken"
_URL = "webservice_url"
#: In the state's ``meta``: what documents are made of. Another one makes every study stale.
DOCUMENT = "document"
#: The highest study_pk at the first position. What lies below was stored before the service began.
FIRST_PK = "first_pk"


class Recalled(NamedTuple):
    """The state, as the program uses it. ``news`` is what has to be written because it is new.

    ``taken``: the ledger says that the index at ``webservice_url`` has something.
    """

    meta: Mapping[str, Any]
    jobs: Mapping[str, Mapping[str, Any]]
    settled: Settled
    identity: Identity | None
    position: Position | None
    columns: Columns | None
    clock: VersionClock
    taken: bool
    written_at: float | None
    news: Mapping[str, Any]


def recall(store: Store, settings: Settings, *, anew: bool, same_index: bool) -> Recalled:
    """Reads the state. ``anew``: it may be of another centre or index, since everything is sent again.

    Raises FatalError with the choice when it is of another centre or index, StateError when it can't be understood.
    """
    loaded = store.load()
    meta = loaded.meta
    if store.created and (settings.state_dir / "checkpoint.json").exists():
        log.warning("state.sqlite is gone, and begins anew: every study in study_service is sent again")
    news: dict[str, Any] = {}
    if meta.get(LEDGER_DAMAGED):
        # Nobody knows any more what the index was told: nothing is called missing, until it is compared or sent anew.
        news |= {LEDGER_DAMAGED: None, "scope": None}
        log.error(
            "the ledger was damaged and begins anew: an index that answers digests is compared with the archive; else run "
            "`initial --restart` if it may lack something"
        )
    taken = loaded.ledger > 0 and meta.get(_TAKEN) is not False
    _check(meta, taken, settings, anew=anew, same_index=same_index)
    for name, value in ((_CENTER, settings.center), (_URL, settings.webservice_url)):
        if meta.get(name) != value:
            news[name] = value
    if (shape := other_document(meta.get(DOCUMENT), settings, 0 if anew else loaded.ledger)) is not None:
        news[DOCUMENT] = shape
    if "began_at" not in meta:
        news["began_at"] = time.time()
    try:
        position, columns = meta.get("position"), meta.get("columns")
        return Recalled(
            meta,
            loaded.jobs,
            Settled.load(datetime.fromisoformat(meta.get("until", EPOCH.isoformat())), loaded.settled),
            Identity(**meta["identity"]) if meta.get("identity") else None,
            Position(**position) if position else None,
            tuple((str(n), str(t), bool(u)) for n, t, u in columns) if columns else None,
            VersionClock(int(meta.get("version_bound", 0))),
            taken and not anew,
            meta.get("written_at"),
            news,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StateError(
            f"{store.path} holds something that this version doesn't understand ({type(error).__name__}): put a good "
            "copy of it back, or move the file away to begin anew (every study in study_service is then sent again)."
        ) from None


def other_document(before: object, settings: Settings, entries: int) -> dict[str, Any] | None:
    """What documents are made of now, if that is new; says how many studies differ for that, before they are sent."""
    shape = {"format": DOCUMENT_FORMAT, "fields": dict(settings.fields)}
    if before == shape:
        return None
    if before is not None and entries and settings.delivery.updates:
        log.warning(
            f"`fields`, or the form of a study's document, is another one than before: all {entries:,} studies that the "
            "central index was told of differ for that, and go out once more by the next comparison "
            "(tonight, or by `reconcile`)",
            studies=entries,
        )
    return shape


def _check(meta: Mapping[str, Any], taken: bool, settings: Settings, *, anew: bool, same_index: bool) -> None:
    if anew:
        return
    center, url = meta.get(_CENTER), meta.get(_URL)
    if center is not None and center != settings.center:
        raise FatalError(
            f"server.json says centre {settings.center!r}, but the studies sent so far went out as {center!r}: "
            f"put {center!r} back, or send everything under the new one with `initial --restart`."
        )
    if url is not None and url != settings.webservice_url and taken and not same_index:
        raise FatalError(OTHER_INDEX)

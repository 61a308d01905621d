"""A look at the state from another process: for `status` and `check`, which change nothing."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cdc_indexer.model.errors import LedgerDamaged, StateError
from cdc_indexer.model.position import Identity, Position
from cdc_indexer.model.settled import EPOCH, Settled
from cdc_indexer.model.unfinished import is_unfinished
from cdc_indexer.state import checkpoint_copy
from cdc_indexer.state._database import connect, read_all
from cdc_indexer.state._files import FILE_NAME, check_file, check_place, damaged, meaning
from cdc_indexer.state._probe import WriteProbe

__all__ = ["Glance", "glance"]

_CACHE_KILOBYTES = 500


@dataclass(frozen=True, slots=True)
class Glance:
    """How far the state is. ``written``: when the copy for people was, with its zone; None: nobody can say."""

    center: str | None
    webservice_url: str | None
    identity: Identity | None
    position: Position | None
    settled: Settled
    written: datetime | None
    #: What the last comparison of archive and index came to.
    last_pass: dict[str, Any] | None = None
    #: See model/unfinished.py.
    unfinished: bool = False


def glance(state_dir: Path) -> Glance | None:
    """None where there is no state yet. Raises StateError when it can't be used, StorageError when it can't be read."""
    path = state_dir / FILE_NAME
    check_place(state_dir)
    if not check_file(state_dir):
        return None
    try:
        with closing(WriteProbe(state_dir)) as probe:
            probe.check()
        with closing(connect(path, _CACHE_KILOBYTES)) as db:
            content = read_all(db, path)
    except (sqlite3.Error, OSError) as error:
        ours = meaning(error, path)
        raise damaged(path, "it is damaged") if isinstance(ours, LedgerDamaged) else ours from None
    meta = {name: json.loads(value) for name, value in content["meta"].items()}
    copy = checkpoint_copy.read(state_dir) or {}
    try:
        identity, position = meta.get("identity"), meta.get("position")
        until = datetime.fromisoformat(meta.get("until", EPOCH.isoformat()))
        return Glance(
            meta.get("center"),
            meta.get("webservice_url"),
            Identity(**identity) if identity else None,
            Position(**position) if position else None,
            Settled.load(until, content["settled"]),
            datetime.fromisoformat(copy["time"].replace("Z", "+00:00")) if "time" in copy else None,
            meta.get("last_pass"),
            is_unfinished(content["jobs"], meta),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise StateError(
            f"{path} holds something that this version doesn't understand ({type(error).__name__})."
        ) from None

"""What the triggers cost the archive: a study's first image, and its counts, with and without them, in turn."""

from __future__ import annotations

import time
from pathlib import Path

from tests.pacs import ADD_INDEXER, Pacs
from tests.servers import Server

_REMOVE = Path(__file__).resolve().parent.parent / "extras/remove_indexer.sql"


def cost(server: Server, count: int) -> dict[str, float]:
    """Milliseconds each, and the ratios with / without."""
    pacs = Pacs.create_bare(server)
    seconds = {}
    try:
        for with_triggers in (False, True):
            script = ADD_INDEXER if with_triggers else _REMOVE
            server.run_script(script.read_text(), pacs.name)
            _store(pacs, count // 5)
            seconds[with_triggers] = _store(pacs, count)
    finally:
        pacs.destroy()
    figures = {}
    for number, what in enumerate(("first image", "counts")):
        without, with_triggers_ = seconds[False][number], seconds[True][number]
        figures[f"{what} without, ms"] = without * 1000
        figures[f"{what} with, ms"] = with_triggers_ * 1000
        figures[f"{what} ratio"] = with_triggers_ / without
    return figures


def _store(pacs: Pacs, count: int) -> tuple[float, float]:
    """The seconds of one first image (five statements and a commit), and of one update of the counts."""
    began = time.perf_counter()
    pks = [pacs.store_study() for _ in range(count)]
    middle = time.perf_counter()
    for pk in pks:
        pacs.update_counts(pk, 3, 412, "CT")
    return (middle - began) / count, (time.perf_counter() - middle) / count

"""An `initial` that was begun and isn't done: what the durable state says of it (pure)."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["ALL", "INITIAL", "UNFINISHED", "is_unfinished"]

#: Its name among the jobs in the durable state.
INITIAL = "initial"

#: `scope` in the durable state: everything that the view holds is the ledger's business; else what is above a study_pk.
ALL = "all"

UNFINISHED = (
    "An `initial` was begun and isn't done, so that older studies are missing at the central index: run it again with the "
    "same options, it goes on where it ended"
)


def is_unfinished(jobs: Mapping[str, object], meta: Mapping[str, object]) -> bool:
    """Not where comparisons look at the whole archive: they find what it hasn't sent."""
    return INITIAL in jobs and meta.get("scope") != ALL

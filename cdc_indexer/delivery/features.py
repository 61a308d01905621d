"""What is known of the central index at an address, learned from its answers: remembered with the ``webservice_url``."""

from __future__ import annotations

from collections.abc import Callable

from cdc_indexer.model.outcome import Kind

__all__ = ["Known"]


class Known:
    """What the answers of one address have taught; shared by all connections to it.

    ``json_seen``: its 2xx to a POST has been JSON. ``on_change`` is told when there is something new to be kept.
    """

    def __init__(
        self,
        *,
        json_seen: bool = False,
        on_change: Callable[[Known], None] = lambda known: None,
    ) -> None:
        self.json_seen = json_seen
        self._on_change = on_change

    def answered(self, method: str, kind: Kind, *, json: bool) -> None:
        """The index has taken a request."""
        if json and method == "POST" and kind is Kind.ACCEPTED and not self.json_seen:
            self.json_seen = True
            self._on_change(self)

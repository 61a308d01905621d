"""From settings to the values that the core decides by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cdc_indexer.flow.policy import Policy

if TYPE_CHECKING:
    from cdc_indexer.model.settings import Settings

__all__ = ["policy_of"]


def policy_of(settings: Settings) -> Policy:
    """The part of the settings that says what is sent."""
    delivery = settings.delivery
    return Policy(
        center=settings.center,
        fields=settings.fields,
        stable=delivery.send == "stable",
        updates=delivery.updates,
        deletes=delivery.deletes == "delete",
        settle_seconds=delivery.quiet_seconds,
        max_wait_seconds=delivery.max_wait_seconds,
    )

"""A router for projects with read replicas: inside a fenced block the fenced database serves the reads too.

Invariants:
1. A replica lags. A value from a replica may be older than the fence, and the update of another holder would be lost.
2. The router decides only for models that are written to a database with an open fence, not for others.
3. Only the other router knows where the next read goes: it may decide by model, at random or by load. So the rule asks
   whether a router chooses at all, and never asks for the choice.
"""

from __future__ import annotations

from typing import Any

from django.db import router

from redlock.errors import ConfigurationError
from redlock.fencing.django import blocks


class FencedRouter:
    """Sends the reads of a fenced block to the fenced database.

    Put `"redlock.fencing.django.FencedRouter"` first in `DATABASE_ROUTERS` where another router has `db_for_read`.
    """

    def db_for_read(self, model: Any, **hints: Any) -> str | None:  # noqa: ANN401 - Django has no types
        """The fenced database for its own models; None outside a fenced block and for other models."""
        aliases = blocks.fenced_aliases()
        alias: str | None = router.db_for_write(model, **hints) if aliases else None
        return alias if alias in aliases else None


def refuse_replicas() -> None:
    """Refuse a router that chooses the database of a read before `FencedRouter` can.

    Raises:
        ConfigurationError: A router with `db_for_read` is before `FencedRouter`, or there is no `FencedRouter`.
    """
    for other in router.routers:
        if isinstance(other, FencedRouter):
            return
        if hasattr(other, "db_for_read"):
            raise ConfigurationError(
                f"the router {type(other).__qualname__} chooses where to read, and a replica may be older than the "
                'fence: put "redlock.fencing.django.FencedRouter" first in DATABASE_ROUTERS'
            )

"""A router for projects with read replicas: inside a fenced block the fenced database serves the reads too.

Invariants:
1. A replica lags. A value from a replica may be older than the fence, and the update of another holder would be lost.
2. The router decides only for models that are written to a database with an open fence, not for others.
"""

from __future__ import annotations

from typing import Any

from django.db import router

from redlock.errors import ConfigurationError
from redlock.fencing.django import blocks


class FencedRouter:
    """Sends the reads of a fenced block to the fenced database.

    Put `"redlock.fencing.django.FencedRouter"` first in `DATABASE_ROUTERS` where another router reads from replicas.
    """

    def db_for_read(self, model: Any, **hints: Any) -> str | None:  # noqa: ANN401 - Django has no types
        """The fenced database for its own models; None outside a fenced block and for other models."""
        aliases = blocks.fenced_aliases()
        alias: str | None = router.db_for_write(model, **hints) if aliases else None
        return alias if alias in aliases else None


def refuse_replicas() -> None:
    """Refuse routers that read a model from another database than they write it to."""
    from redlock.fencing.django.models import Fence  # noqa: PLC0415 - models load after the routers

    if router.routers and isinstance(router.routers[0], FencedRouter):
        return
    read, written = router.db_for_read(Fence), router.db_for_write(Fence)
    if read != written:
        raise ConfigurationError(
            f"a router reads from {read!r} and writes to {written!r}, and a replica may be older than the fence: "
            'put "redlock.fencing.django.FencedRouter" first in DATABASE_ROUTERS'
        )

"""A router for projects with read replicas: inside a fenced block the fenced database serves the reads too.

Invariants:
1. A replica lags. A value from a replica may be older than the fence, and the update of another holder would be lost.
2. The router decides only for models that are written to a database with an open fence, not for others.
"""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from django.db import router

from redlock.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

_fenced: ContextVar[tuple[str, ...]] = ContextVar("redlock_fenced", default=())
"""The aliases of the databases with an open fence."""


class FencedRouter:
    """Sends the reads of a fenced block to the fenced database.

    Put `"redlock.fencing.django.FencedRouter"` first in `DATABASE_ROUTERS` where another router reads from replicas.
    """

    def db_for_read(self, model: Any, **hints: Any) -> str | None:  # noqa: ANN401 - Django has no types
        """The fenced database for its own models; None outside a fenced block and for other models."""
        aliases = _fenced.get()
        alias: str | None = router.db_for_write(model, **hints) if aliases else None
        return alias if alias in aliases else None


@contextlib.contextmanager
def reads_from(alias: str) -> Iterator[None]:
    """Let `FencedRouter` send reads to this database.

    Raises:
        ConfigurationError: A router reads from replicas, and `FencedRouter` is not before it.
    """
    refuse_replicas()
    before = _fenced.set((*_fenced.get(), alias))
    try:
        yield
    finally:
        _fenced.reset(before)


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

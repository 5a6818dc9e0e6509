"""A router for projects with read replicas: inside a fenced block the fenced database serves the reads too.

Invariants:
1. A replica lags. A value from a replica may be older than the fence, and the update of another holder would be lost.
2. The router decides only for models that are written to a database with an open fence, not for others.
"""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from django.db import connections, router

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


def refuse_fenced(alias: str) -> None:
    """Refuse a database with an open fence: the block would wait for the end of the block around it.

    Raises:
        ConfigurationError: This alias, or another alias of the same database, has an open fence.
    """
    for other in _fenced.get():
        if _database(other) == _database(alias):
            raise ConfigurationError(
                f"the database {alias!r} has an open fenced block already, as {other!r}, and the inner block would wait"
                " for the outer one: use one block"
            )


def _database(alias: str) -> list[object]:
    settings = connections[alias].settings_dict
    return [settings.get(name) for name in ("ENGINE", "HOST", "PORT", "NAME")]


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

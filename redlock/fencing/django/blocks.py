"""The open fences of this thread's database connections.

Invariants:
1. Django's connection has the list of its open blocks. This module keeps no second list that could differ: a context
   variable would outlive its block in copies of the context.
2. The block is off the list before Django commits, so functions of `on_commit` may open the next block.
"""

from __future__ import annotations

import os
from typing import Any

from django.db import connections, transaction

from redlock.errors import ConfigurationError


class FencedAtomic(transaction.Atomic):  # type: ignore[misc]  # Django has no types
    """The `atomic` block of a fenced transaction, by which its connection has an open fence."""


def fenced_aliases() -> list[str]:
    """The aliases of the databases with an open fence."""
    return [
        connection.alias
        for connection in connections.all(initialized_only=True)
        if any(isinstance(block, FencedAtomic) for block in connection.atomic_blocks)
    ]


def refuse_fenced(alias: str) -> None:
    """Refuse a database with an open fence: the block would wait for the end of the block around it.

    Raises:
        ConfigurationError: This alias, or another alias of the same database, has an open fence.
    """
    for other in fenced_aliases():
        if _database(other) == _database(alias):
            raise ConfigurationError(
                f"the database {alias!r} has an open fenced block already, as {other!r}, and the inner block would wait"
                " for the outer one: use one block"
            )


def _database(alias: str) -> list[str]:
    """The place of a database as text: settings may have a `Path`, or a port as a number."""
    connection: Any = connections[alias]
    host, port, name = (str(connection.settings_dict.get(key) or "") for key in ("HOST", "PORT", "NAME"))
    return [connection.vendor, host, port, os.path.realpath(name) if connection.vendor == "sqlite" else name]

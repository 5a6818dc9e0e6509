"""Faults of a single redis-server: kill, freeze, restart and the choice of its data after a restart.

Invariants: every function works in any state of the server; a killed server stays dead until `revive`.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable

from redis import Redis
from redis.exceptions import RedisError

from redlock.testing.redis_server import Server
from tests.integration.tools import raw


def is_up(server: Server) -> bool:
    """Whether the server runs; a frozen server counts as running."""
    return server._process is not None


def revive(server: Server) -> None:
    """Start a killed server, or thaw a frozen server."""
    if is_up(server):
        server.thaw()
    else:
        server.start()


def erase(server: Server, keep: str | None = None) -> None:
    """Delete the data of a dead server, or replace the data by this snapshot."""
    with contextlib.suppress(FileNotFoundError):
        (server.directory / "dump.rdb").unlink()
    if keep is not None and (server.directory / keep).exists():
        shutil.copy(server.directory / keep, server.directory / "dump.rdb")


def ask(server: Server, act: Callable[[Redis], object]) -> None:
    """Let a client of a running server do this, as far as the server answers."""
    if is_up(server):
        server.thaw()
        with raw(server) as redis, contextlib.suppress(RedisError):
            act(redis)

"""What the hand does to one redis-server: killed and frozen ones come back, with the memory that they are given.

Rules: each of these may be called in any state; a node that is dead stays dead until it is revived.
"""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from tests.integration.tools import raw

if TYPE_CHECKING:
    from redlock.testing.redis_server import Server


def is_up(server: Server) -> bool:
    """Whether it runs, be it frozen."""
    return server._process is not None


def revive(server: Server) -> None:
    """Started if it was killed, thawed if it was frozen."""
    if is_up(server):
        server.thaw()
    else:
        server.start()


def erase(server: Server, keep: str | None = None) -> None:
    """What a dead node will find when it starts: nothing, or this snapshot."""
    with contextlib.suppress(FileNotFoundError):
        (server.directory / "dump.rdb").unlink()
    if keep is not None and (server.directory / keep).exists():
        shutil.copy(server.directory / keep, server.directory / "dump.rdb")


def save(server: Server) -> None:
    """A snapshot of a node that runs."""
    if is_up(server):
        server.thaw()
        with raw(server) as redis, contextlib.suppress(RedisError):
            redis.save()

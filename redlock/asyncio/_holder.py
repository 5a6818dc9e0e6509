"""The holder of a resource for asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redlock._core import protocol
from redlock.holder import holder_of

if TYPE_CHECKING:
    from redlock.asyncio._loop_parts import LoopContext
    from redlock.holder import LockHolder


async def find_holder(context: LoopContext, resource: str) -> LockHolder | None:
    """The holder reported by most nodes, or None unless a quorum reports a holder.

    Raises:
        QuorumUnavailable: Too few nodes answered.
    """
    return holder_of(context.nodes, resource, await context.parts().connections.run(protocol.inspect(resource)))

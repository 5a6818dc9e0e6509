"""Declaring nodes old enough to vote at once, instead of waiting until they have been known for `max_ttl`.

Rules: only for whoever knows that these nodes can have forgotten no lock: the launcher that has this moment made
them out of nothing, or a person through `redlock init`. A node that has a record is never declared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from redlock import wire
from redlock.errors import ConfigurationError
from redlock.nodes import Node, why

if TYPE_CHECKING:
    from collections.abc import Sequence

_TIMEOUT_MS = 2_000


def declare(urls: Sequence[str]) -> None:
    """Let these nodes vote at once: every lock that they could have forgotten is known to be over.

    Args:
        urls: The nodes' addresses, all of them.

    Raises:
        ConfigurationError: A node can't be reached, or has a record already; then none has been declared by
            this call after it.
    """
    script = wire.Script.load("declare")
    for url in urls:
        node = Node(url, _TIMEOUT_MS)
        try:
            dialled = node.connect()
            connection = dialled.connection
            dialled.sock.settimeout(_TIMEOUT_MS / 1000)
            try:
                connection.send_command("EVAL", script.source, 1, wire.RECORD, dialled.run_id)  # type: ignore[no-untyped-call]
                declared = connection.read_response()
            finally:
                connection.disconnect()  # type: ignore[no-untyped-call]
        except (RedisError, OSError) as exc:
            raise ConfigurationError(f"node {node.label} can't be declared: {why(exc, _TIMEOUT_MS)}") from None
        if declared != 1:
            raise ConfigurationError(
                f"node {node.label} has a record already: clients have used it, so it may have forgotten a lock; "
                "it will vote by itself when it has been known for max_ttl"
            )

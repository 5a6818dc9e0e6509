"""Lets brand-new nodes vote at once: without this, a new node abstains until `max_ttl` has passed.

Invariants:
1. The caller knows that these nodes can't have forgotten a lock: a launcher that has just created them, or a person
   through `redlock init`.
2. A node that has a record is never declared.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from redlock import _validation
from redlock._compat import ReplyError
from redlock._transport import codec
from redlock._transport.decoder import explain
from redlock._transport.exchange import pack
from redlock._transport.node import ERRORS, Node, UnsuitableNode, describe_failure
from redlock.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["declare_nodes"]

_TIMEOUT_SECONDS = 2.0


@_validation.private
def declare_nodes(urls: Sequence[str], prefix: str = "") -> None:
    """Let these nodes vote at once: every lock that they could have forgotten is known to be over.

    Args:
        urls: The addresses of all nodes.
        prefix: The prefix of the clients. For clients with another prefix the nodes stay new.

    Raises:
        ConfigurationError: A node can't be reached, or has a record already. The nodes after this node have not been
            declared.
    """
    script = codec.Script.load("declare")
    for url in urls:
        node = Node(url, int(_TIMEOUT_SECONDS * 1000), prefix)
        try:
            connected = node.connect(2 * _TIMEOUT_SECONDS)
            try:
                words = pack("EVAL", script.source, "1", prefix + codec.RECORD, connected.run_id)
                (declared,) = connected.ask(words, 1, time.monotonic() + _TIMEOUT_SECONDS)
            finally:
                connected.close()
        except (*ERRORS, UnsuitableNode) as exc:
            raise ConfigurationError(
                f"node {node.label} can't be declared: {describe_failure(exc, node.timeout_ms)}"
            ) from None
        if isinstance(declared, ReplyError):
            raise ConfigurationError(f"node {node.label} can't be declared: {explain(str(declared))}")
        if declared != 1:
            raise ConfigurationError(
                f"node {node.label} has a record already: clients have used it, so the node may have forgotten a lock; "
                "it votes by itself when max_ttl has passed"
            )

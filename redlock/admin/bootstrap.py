"""Lets brand-new nodes vote at once: without this, a new node abstains until `max_ttl` has passed.

Invariants:
1. The caller knows that these nodes can't have forgotten a lock: a launcher that has just created them, or a person
   through `redlock init`.
2. A node that has the record of a client is never declared.
3. A failed declaration can be repeated.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from redlock import _validation
from redlock._transport import codec
from redlock._transport.codec import pack
from redlock._transport.node import ERRORS, Node, UnsuitableNode, describe_failure, refuse
from redlock.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from redlock._transport.exchange import Exchange

_TIMEOUT_SECONDS = 2.0
_HAS_RECORD = (
    "it has a record already, of a client or of an earlier start, so it may have forgotten a lock; "
    "it votes by itself when max_ttl has passed"
)


@_validation.private
def declare_nodes(urls: Sequence[str], prefix: str = "") -> None:
    """Let these nodes vote at once: every lock that they could have forgotten is known to be over.

    Args:
        urls: The addresses of all nodes.
        prefix: The prefix of the clients. For clients with another prefix the nodes stay new.

    Raises:
        ConfigurationError: A node can't be reached, has a record already, or is named twice. The message names the
            nodes that were declared before; a repetition declares the others.
    """
    script = codec.Script.load("declare")
    nodes = [Node(url, int(_TIMEOUT_SECONDS * 1000), prefix) for url in urls]
    servers: dict[str, tuple[Node, Exchange]] = {}
    declared: list[str] = []
    with contextlib.ExitStack() as stack:
        # All connections first: a node that can't be reached must leave the others as they are.
        for node in nodes:
            with _failures_of(node, declared):
                exchange = node.connect(2 * _TIMEOUT_SECONDS)
                stack.callback(exchange.close)
                if exchange.run_id in servers:
                    raise UnsuitableNode(f"the same server as {servers[exchange.run_id][0].label}")
                servers[exchange.run_id] = node, exchange
        for run_id, (node, exchange) in servers.items():
            with _failures_of(node, declared):
                words = pack("EVAL", script.source, "1", prefix + codec.RECORD, run_id)
                (answer,) = exchange.ask(words, 1, time.monotonic() + _TIMEOUT_SECONDS)
                refuse(answer)
                if answer != 1:
                    raise UnsuitableNode(_HAS_RECORD)
            declared.append(node.label)


@contextlib.contextmanager
def _failures_of(node: Node, declared: list[str]) -> Iterator[None]:
    try:
        yield
    except (*ERRORS, UnsuitableNode) as exc:
        raise ConfigurationError(
            f"node {node.label} can't be declared: {describe_failure(exc, node.timeout_ms)} "
            f"(declared nodes: {', '.join(declared) or 'none'})"
        ) from None

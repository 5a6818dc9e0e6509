"""A thread that reports the waits of a client to the nodes.

Invariants:
1. The waiting code only makes one function call. A separate thread talks to the nodes, and only if a wait lasts.
2. A report is a hint: if a node refuses the report, nothing else is affected and nothing is logged.
3. The thread is a daemon. The thread starts with the first wait, so after a fork, and ends after two seconds without
   a wait.
"""

from __future__ import annotations

import secrets
import threading
import time
from typing import TYPE_CHECKING, Any

from redlock import _threads
from redlock._locking import wait_report
from redlock._transport.codec import pack
from redlock._transport.node import ERRORS, UnsuitableNode
from redlock.errors import NoThread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redlock._locking.wait_registry import PendingWait
    from redlock._locking.waiter_pool import WaitingConnections
    from redlock._transport.exchange import Exchange
    from redlock._transport.node import Node

_TURN_SECONDS = 0.1
"""The shortest time between two reports, however often waits begin and end."""
_IDLE_TURNS = 20


class WaitPublisher:
    """Reports the waits of a client."""

    def __init__(self, pending: Callable[[], Sequence[PendingWait]], waiters: WaitingConnections[Any]) -> None:
        self._pending, self._waiters, self._prefix = pending, waiters, waiters.codec.prefix
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """In a forked child: the parent's thread and its connections do not exist here."""
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._is_closed = False
        self._process = secrets.token_hex(8)

    def wake(self) -> None:
        """Report a new wait. Never blocks: a signal handler may wait for a lease while its thread is in this method."""
        self._is_closed = False
        if self._thread is None and self._starting.acquire(blocking=False):
            try:
                if self._thread is None:
                    self._thread = _threads.start(self._run, "redlock-waits")
            except NoThread:
                # The wait itself needs no thread.
                pass
            finally:
                self._starting.release()

    def close(self) -> None:
        """Stop the reports until the next wait."""
        self._is_closed = True

    def _run(self) -> None:
        reports = _Reports(self._process, self._prefix)
        try:
            idle = 0
            while idle < _IDLE_TURNS and not self._is_closed:
                time.sleep(_TURN_SECONDS)
                waits = self._pending()
                idle = 0 if waits else idle + 1
                by_node: dict[Node, list[PendingWait]] = {}
                for wait in waits:
                    node = self._waiters.node_for(wait.names)
                    if node is not None:
                        by_node.setdefault(node, []).append(wait)
                reports.write({node: wait_report.encode(group, self._prefix) for node, group in by_node.items()})
        finally:
            reports.close()
            self._thread = None
        if self._pending() and not self._is_closed:
            # The wait began while this thread was ending.
            self.wake()


class _Reports:
    """The reports of a process on the nodes, and the connections for them."""

    def __init__(self, process: str, prefix: str) -> None:
        self._process, self._prefix = process, prefix
        self._connections: dict[Node, Exchange] = {}
        self._written: dict[Node, tuple[str, float]] = {}

    def write(self, texts: dict[Node, str]) -> None:
        """Write each report that has changed or is due for renewal; a node without a text gets an empty report."""
        for node in [*texts, *(node for node in self._written if node not in texts)]:
            text, now = texts.get(node, ""), time.monotonic()
            before, at = self._written.get(node, ("", 0.0))
            if text != before or (text and now >= at + wait_report.EVERY_SECONDS):
                self._written[node] = text, now
                self._send(node, text)

    def _send(self, node: Node, text: str) -> None:
        seconds = node.timeout_ms / 1000
        words = wait_report.write_command(self._process, text, self._prefix)
        try:
            if node not in self._connections:
                self._connections[node] = node.connect()
            self._connections[node].ask(pack(*words), 1, time.monotonic() + seconds)
        except (*ERRORS, UnsuitableNode):
            # The rounds that need the node's vote mark the node as down.
            self._drop(node)

    def _drop(self, node: Node) -> None:
        connected = self._connections.pop(node, None)
        if connected is not None:
            connected.close()

    def close(self) -> None:
        """Close the connections. The last reports expire on the nodes."""
        for node in list(self._connections):
            self._drop(node)

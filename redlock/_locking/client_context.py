"""The parts of a client that do not depend on its driver: nodes, codec, limits, fences and log."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

from redlock import _log, _validation
from redlock._clock import wall_us
from redlock._core.observed_fences import ObservedFences
from redlock._locking.lock_events import LockEventLog
from redlock._transport.codec import Codec
from redlock._transport.node import Node
from redlock.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redlock._core.commands import Names


class ClientOptions(NamedTuple):
    """The checked options of a client; see `Redlock`."""

    nodes: Sequence[Node]
    ttl_ms: int
    max_ttl_ms: int
    prefix: str
    node_timeout_ms: int


def client_options(
    nodes: Sequence[str] | str, *, ttl: float, max_ttl: float, prefix: str, node_timeout: float
) -> ClientOptions:
    """The options of `Redlock`, checked. Called by its constructor: a warning names the caller of that."""
    node_timeout_ms = _validation.node_timeout_ms(node_timeout)
    max_ttl_ms = int(_validation.number("max_ttl", max_ttl) * 1000)
    ttl_ms = _validation.ttl_ms(ttl, max_ttl_ms=max_ttl_ms, node_timeout_ms=node_timeout_ms)
    checked_prefix = _validation.prefix(prefix)
    members = [Node(address, node_timeout_ms, checked_prefix) for address in _validation.node_list(nodes)]
    labels = [node.label for node in members]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigurationError(f"node {label} is listed twice; each lock node must be a separate server")
    warning = _validation.tolerance(len(members))
    if warning is not None:
        warnings.warn(warning, stacklevel=4)
        _log.warning("nodes", count=len(members), why=warning)
    return ClientOptions(members, ttl_ms, max_ttl_ms, checked_prefix, node_timeout_ms)


class ClientContext(ABC):
    """The base class of the contexts: the parts that the locks of a client share under every driver."""

    def __init__(self, options: ClientOptions) -> None:
        self.nodes = tuple(options.nodes)
        self.node_timeout_ms = options.node_timeout_ms
        self.reserve_ms = max(1, options.node_timeout_ms // 2)
        """How long a released lock is reserved for the waiter that the release wakes."""
        self.fresh_ms = options.max_ttl_ms // 2
        """How long a proposed token counts: half of a node's quarantine. The other half covers clock errors."""
        self.codec = Codec(len(options.nodes), options.prefix, options.max_ttl_ms, self.reserve_ms)
        self.event_log = LockEventLog(options.nodes)
        self._max_ttl_ms = options.max_ttl_ms
        self._least_ttl_ms = _validation.least_ttl_ms(options.node_timeout_ms)
        self._fences = ObservedFences()

    @abstractmethod
    def parts(self) -> Any:  # noqa: ANN401 - of the driver
        """The parts that leases share under a driver: `waiters`, `waits`, `renewal`, and `call` for `on_lost`."""

    @abstractmethod
    def reset_after_fork(self) -> None:
        """In a forked child: drop what belongs to the parent."""

    def await_releases(self) -> None:  # noqa: B027 - nothing with asyncio
        """At the end of the process, where no event loop runs: wait for asynchronous releases of threads."""

    def _note_close(self) -> None:
        """The client was closed, until its next use."""
        for node in self.nodes:
            node.is_unused = True

    def checked_ttl_ms(self, ttl: float) -> int:
        """A TTL in seconds as milliseconds.

        Raises:
            ConfigurationError: The TTL is no number, too short for the node timeout, or above `max_ttl`.
        """
        return _validation.ttl_ms(ttl, max_ttl_ms=self._max_ttl_ms, node_timeout_ms=self.node_timeout_ms)

    def checked_ms(self, ttl_ms: int) -> int:
        """Check a TTL in milliseconds against the same bounds."""
        if type(ttl_ms) is int and self._least_ttl_ms <= ttl_ms <= self._max_ttl_ms:
            return ttl_ms
        if isinstance(ttl_ms, bool) or not isinstance(ttl_ms, int):
            raise ConfigurationError(f"ttl_ms is {ttl_ms!r:.60}; it must be milliseconds as a whole number")
        return self.checked_ttl_ms(ttl_ms / 1000)

    def checked_extension_ms(self, seconds: float) -> int:
        """The seconds of an extension as the TTL in milliseconds that the nodes get."""
        return max(_validation.extension_ms(seconds, max_ttl_ms=self._max_ttl_ms), self._least_ttl_ms)

    def proposal(self, names: Names, wall_us: int) -> int:
        """The fencing token to propose: the wall clock, or one more than the largest token observed for the names."""
        return self._fences.proposal(names, wall_us)

    def observe_fence(self, names: Names, fence: int) -> None:
        """Remember a token, so that the next proposal for these resources is larger.

        A token that is more than an hour ahead of the wall clock is logged and not remembered.
        """
        if not self._fences.observe(names, fence, wall_us()):
            _log.warning("fence-implausible", resource=", ".join(names), fence=fence)

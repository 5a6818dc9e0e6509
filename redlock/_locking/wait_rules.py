"""The rules of waiting under every driver: the node at which waiters wait, and the meaning of a wake-up.

Invariants: no I/O. All waiters of a resource wait at the first healthy node in an order that is computed from the name.
They wait at the same node as long as they agree on the healthy nodes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from redlock._clock import now_ms
from redlock._core.backoff import early_retry_ms, pause_ms, sleep_ms
from redlock._transport import codec as wire
from redlock._transport import node_info
from redlock._transport.exchange import pack
from redlock._transport.node import UnsuitableNode, refuse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from redlock._core.commands import Names
    from redlock._core.votes import Refusal
    from redlock._transport.node import Node

READ_SECONDS = 2
"""The longest blocking read; a client that waits longer reads again."""
_MOST_REMEMBERED = 1_024
_MOST_EARLY = 6
_MOST_VAIN = 3
"""The wake-ups in vain during one lease that can be honest: left by an earlier release, or by an attempt that lost."""
_REST_MS = 100
_WAKE = wire.Script.load("wake")


class WaitMemory:
    """The resources for which a client has recently waited.

    Args:
        nodes: The lock nodes, in their order.
        codec: Knows the keys of the wake-ups.
    """

    def __init__(self, nodes: Sequence[Node], codec: wire.Codec) -> None:
        self.nodes = nodes
        self._codec = codec
        self._contended: dict[Names, tuple[int, int]] = {}

    def last_wait_ms(self, names: Names) -> int:
        """The length of the last wait for these resources, if that wait was recent; otherwise 0."""
        if not self._contended:
            return 0
        until_ms, waited_ms = self._contended.get(names, (0, 0))
        return waited_ms if until_ms > now_ms() else 0

    def remember(self, names: Names, waited_ms: int, length_ms: int) -> None:
        """Remember for this long that a wait took this time; 0 ms means that there were no other waiters."""
        if waited_ms:
            if len(self._contended) >= _MOST_REMEMBERED:
                self._contended.clear()
            self._contended[names] = now_ms() + length_ms, waited_ms
        elif self._contended:
            self._contended.pop(names, None)

    def node_for(self, names: Names) -> Node | None:
        """The node at which waiters wait: the first healthy node in an order that is computed from the name."""
        return next((node for node in self._in_order(names) if not node.error), None)

    def node_to_try(self, names: Names, now_ms: int) -> Node | None:
        """As `node_for`, but from time to time also a node that is down, for a single waiter."""
        return next((node for node in self._in_order(names) if node.may_wait(now_ms)), None)

    def _in_order(self, names: Names) -> Iterator[Node]:
        return (self.nodes[place] for place in wire.waiting_order(names, len(self.nodes)))

    def keys(self, names: Names) -> list[str]:
        """The keys on a node that hold the wake-ups for these resources."""
        return self._codec.wake_keys(names)


class WakeUps:
    """The wake-ups of one acquisition.

    Args:
        memory: The client's memory of waits.
        names: The resources.
        wake_ms: The time for which a wake-up is valid: the lease's TTL.
    """

    def __init__(self, memory: WaitMemory, names: Names, wake_ms: int) -> None:
        self._memory, self._names, self._wake_ms = memory, names, wake_ms
        self._woken_by = ""
        self._early_attempts = 0
        self._vain = 0
        """The number of wake-ups in a row after which the same holder still had the lock."""
        self._vain_holder: str | None = None
        self._has_waited = False
        self._began_ms = 0

    @property
    def is_woken(self) -> bool:
        """Whether a wake-up has come that no attempt has used yet."""
        return bool(self._woken_by)

    def sleep_ms(self, refusal: Refusal, lost_rounds: int, chance: float) -> tuple[int, bool]:
        """The sleep after a refused attempt, and whether a wake-up can end the sleep."""
        if self.is_woken and self._early_attempts < _MOST_EARLY:
            # The wake-up arrived before the release reached the other nodes: the lock will be free in a moment.
            self._early_attempts += 1
            return early_retry_ms(self._early_attempts, chance), False
        sleep = sleep_ms(refusal, chance)
        if sleep is None:
            return pause_ms(refusal, lost_rounds, chance), False
        if self.is_woken:
            holder = refusal.round_result.holder
            self._vain = self._vain + 1 if holder and holder == self._vain_holder else 1
            self._vain_holder = holder
        return sleep, True

    @property
    def _rest_ms(self) -> int:
        """How long no wake-up counts: a node that wakes without a release must not set the rate of the attempts."""
        return 0 if self._vain <= _MOST_VAIN else _REST_MS << min(self._vain - _MOST_VAIN - 1, 4)

    def _read_words(self, keys: list[str]) -> bytes:
        return pack("BLPOP", *keys, str(READ_SECONDS))

    def _pass_on_words(self) -> bytes:
        return pack("EVAL", _WAKE.source, "1", self._woken_by, str(self._wake_ms))

    def _wake_key(self, reply: object) -> str:
        """The key in a reply to the blocking read; empty if the read ended without a wake-up."""
        refuse(reply)
        keys = [""] if reply is None else self._memory.keys(self._names)
        key = node_info.text(reply[0]) if isinstance(reply, list) and reply else ""
        if key not in keys:
            raise UnsuitableNode("answered something that is no wake-up")
        return key

    def _remember_wait(self) -> None:
        # An unused wake-up stays on the node for the same time.
        waited_ms = max(1, now_ms() - self._began_ms) if self._has_waited else 0
        self._memory.remember(self._names, waited_ms, self._wake_ms)

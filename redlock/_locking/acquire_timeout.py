"""The end of an acquire loop.

Invariants: a loop with a limit ends at the limit. A loop without a limit ends when no quorum has answered for one TTL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from redlock._clock import now_ms

if TYPE_CHECKING:
    from redlock._core.votes import Refusal


class AcquireTimeout:
    """The time limit of one acquisition, which begins now.

    Args:
        length_ms: The limit in milliseconds; 0 for a single attempt, None for no limit.
        ttl_ms: The length of the lease. Without a limit the loop ends after this time without a quorum.
    """

    def __init__(self, length_ms: int | None, ttl_ms: int) -> None:
        self.started_ms = self._heard_ms = now_ms()
        self._length_ms = length_ms
        self._ttl_ms = ttl_ms

    @property
    def waits_ms(self) -> int:
        """The time for which a denied attempt will still wait; the nodes reserve the lock for waiters only."""
        return self._ttl_ms if self._length_ms is None else max(0, self.started_ms + self._length_ms - now_ms())

    def until_ms(self, node_timeout_ms: int) -> int | None:
        """The latest end of the last attempt: two node timeouts after the limit; None without a limit."""
        return None if self._length_ms is None else self.started_ms + self._length_ms + 2 * node_timeout_ms

    @property
    def turn_ms(self) -> int:
        """The longest wait without a request to the nodes."""
        return min(self._ttl_ms, self.waits_ms)

    def node_heard(self) -> None:
        """Record that a quorum has answered, or that this process sent no request by its own choice."""
        self._heard_ms = now_ms()

    def left_ms(self, refusal: Refusal) -> int | None:
        """The time that is left after this refusal; None if the loop has no end."""
        if refusal.round_result.answered >= refusal.round_result.quorum:
            self.node_heard()
        if self._length_ms is not None:
            return self.started_ms + self._length_ms - now_ms()
        return self._heard_ms + self._ttl_ms - now_ms() if refusal.no_quorum else None

"""How long a caller goes on trying, by the clock.

Rules: what is bounded ends when its time is over; what is endless ends where too few nodes could be heard for one TTL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from redlock._clock import now_ms

if TYPE_CHECKING:
    from redlock._core.votes import Refusal


class AcquireTimeout:
    """The time of one caller, from now on.

    Args:
        length_ms: How long it tries; 0 once, None for ever.
        ttl_ms: The lease's length, which is the measure where there is no end.
    """

    def __init__(self, length_ms: int | None, ttl_ms: int) -> None:
        self.started_ms = self._heard_ms = now_ms()
        self._length_ms = length_ms
        self._ttl_ms = ttl_ms

    @property
    def waits_ms(self) -> int:
        """How long it will wait yet if it is denied: what nodes are told, so that they reserve the lock for it."""
        return self._ttl_ms if self._length_ms is None else max(0, self.started_ms + self._length_ms - now_ms())

    def until_ms(self, node_timeout_ms: int) -> int | None:
        """When its last attempt is over: two node timeouts after its time; None if there is no end."""
        return None if self._length_ms is None else self.started_ms + self._length_ms + 2 * node_timeout_ms

    @property
    def turn_ms(self) -> int:
        """How long it may wait without a look at the nodes."""
        return min(self._ttl_ms, self.waits_ms)

    def node_heard(self) -> None:
        """A quorum was heard, or could not be asked."""
        self._heard_ms = now_ms()

    def left_ms(self, refusal: Refusal) -> int | None:
        """What is left after this refusal; None if there is no end."""
        if refusal.round_result.answered >= refusal.round_result.quorum:
            self.node_heard()
        if self._length_ms is not None:
            return self.started_ms + self._length_ms - now_ms()
        return self._heard_ms + self._ttl_ms - now_ms() if refusal.no_quorum else None

"""Backoff: pauses between acquire attempts and before the renewal of a lease.

Invariants:
1. Pure arithmetic: the random number is an argument.
2. Every pause between attempts is random, so that clients that split a vote do not collide again (Redlock text:
   "retry after a random delay").
3. No pause lasts longer than the keys of a dead holder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redlock._core.votes import Refusal

_SPLIT_FIRST_MS, _SPLIT_LAST_MS = 8, 128
_NO_QUORUM_FIRST_MS, _NO_QUORUM_LAST_MS = 25, 400
_FIRST_MS = 50
_LONGEST_SLEEP_MS = 1_000
"""The longest wait without a look at the nodes: a wake-up can be lost with the node or the waiter that had it."""


def pause_ms(refusal: Refusal, attempts: int, chance: float) -> int:
    """The pause before the next attempt where no wake-up is expected, at least 1 ms.

    Args:
        refusal: The result of the last attempt.
        attempts: The number of attempts lost in a row, 1 or more.
        chance: A random number, 0 <= chance < 1.
    """
    if refusal.no_quorum:
        most = min(_NO_QUORUM_FIRST_MS << min(attempts, 10), _NO_QUORUM_LAST_MS)
        return most // 2 + int(chance * most // 2) + 1
    # Short at first, for rivals that are cancelling now; longer where keys of a dead client block the lock.
    return int(chance * min(_SPLIT_FIRST_MS << min(attempts - 1, 10), _SPLIT_LAST_MS)) + 1


def sleep_ms(refusal: Refusal, chance: float) -> int | None:
    """How long to wait for a wake-up: until the holder's keys expire; None where no release will send a wake-up."""
    if refusal.no_quorum or not refusal.round_result.held_by_a_quorum:
        return None
    free_in_ms = refusal.round_result.free_in_ms
    longest = _LONGEST_SLEEP_MS + int(chance * _LONGEST_SLEEP_MS / 4)
    return longest if free_in_ms is None else min(free_in_ms + 1 + int(chance * _SPLIT_FIRST_MS), longest)


def first_attempt_ms(lately_ms: int, ttl_ms: int) -> int:
    """How long a waiter waits for a wake-up before its first attempt, while other waiters are probably ahead.

    Twice as long as the last wait, and at most a tenth of the TTL. A dead holder sends no wake-up, and only an attempt
    shows how long its lease will last. A free lock can have no wake-up either: a wake-up lasts for the TTL of its
    release, and not over a restart of the node.
    """
    return max(_FIRST_MS, min(2 * lately_ms, ttl_ms // 10, _LONGEST_SLEEP_MS))


def early_retry_ms(tries: int, chance: float) -> int:
    """The pause of a waiter that was woken before the release reached a quorum; `tries` counts from 1."""
    return min(1 << (tries - 1), 8) + int(chance * 2)


def renewal_ms(ttl_ms: int) -> int:
    """The time from an acquire or a renewal to the next renewal: a third of the TTL, so two renewals may fail."""
    return max(1, ttl_ms // 3)


def retry_ms(left_ms: int) -> int:
    """The pause after a failed renewal, short enough for several tries in the rest of the lease."""
    return min(max(10, left_ms // 8), 100, max(1, left_ms))

"""How long to pause: after a lost election, and before a lease is renewed.

Rules: pure arithmetic, chance is an argument. Every pause is random, so that clients that split a vote do not
meet again (Redlock text: "retry after a random delay"), and none outlasts the moment at which a dead holder's
keys run out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redlock._core.votes import Refusal

_SPLIT_FIRST_MS, _SPLIT_LAST_MS = 8, 128
_NO_QUORUM_FIRST_MS, _NO_QUORUM_LAST_MS = 25, 400
_FIRST_MS = 50
_LONGEST_SLEEP_MS = 1_000
"""A wake-up can be lost with the node or the waiter that had it; nobody sleeps longer than this after that."""


def pause_ms(refusal: Refusal, attempts: int, chance: float) -> int:
    """The pause before the next attempt where there is nothing to be woken by, at least 1 ms.

    Args:
        refusal: The election that was just lost.
        attempts: How many have been lost in a row, 1 or more.
        chance: A random number, 0 <= chance < 1.
    """
    if refusal.no_quorum:
        most = min(_NO_QUORUM_FIRST_MS << min(attempts, 10), _NO_QUORUM_LAST_MS)
        return most // 2 + int(chance * most // 2) + 1
    # Short at first, for rivals that are just now cancelling; longer where keys of a dead one stand in the way.
    return int(chance * min(_SPLIT_FIRST_MS << min(attempts - 1, 10), _SPLIT_LAST_MS)) + 1


def sleep_ms(refusal: Refusal, chance: float) -> int | None:
    """How long to wait for a wake-up: until the holder's keys run out; None where nobody will leave one."""
    if refusal.no_quorum or not refusal.round_result.held_by_a_quorum:
        return None
    free_in_ms = refusal.round_result.free_in_ms
    longest = _LONGEST_SLEEP_MS + int(chance * _LONGEST_SLEEP_MS / 4)
    return longest if free_in_ms is None else min(free_in_ms + 1 + int(chance * _SPLIT_FIRST_MS), longest)


def first_ms(lately_ms: int, ttl_ms: int) -> int:
    """How long to wait for a wake-up before the first look at the nodes, where others are likely to be before it.

    Twice as long as the last wait took. A small part of a lease at most: a holder that is dead wakes nobody, and only
    a look at the nodes tells how long its lease has yet.
    """
    return max(_FIRST_MS, min(2 * lately_ms, ttl_ms // 10))


def early_ms(tries: int, chance: float) -> int:
    """The pause of somebody who was woken before the release had reached a quorum; `tries` counts from 1."""
    return min(1 << (tries - 1), 8) + int(chance * 2)


def renewal_ms(ttl_ms: int) -> int:
    """How long after it was taken or renewed a lease is renewed: a third of its TTL leaves room for two failures."""
    return max(1, ttl_ms // 3)


def retry_ms(left_ms: int) -> int:
    """The pause after a renewal that failed, with this much of the lease left: several tries fit into it."""
    return min(max(10, left_ms // 8), 100, max(1, left_ms))

"""How long each public call takes on nodes that misbehave, on the virtual clock.

The bounds are exact: a message takes half a round trip at most, code takes no time, and nothing else runs.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from redlock.lock import Lock
from tests.sim.calls import NODE_TIMEOUT_MS, ROUND_TRIP_MS, Cluster, Process
from tests.sim.faults import MOODS

TIMEOUT_MS = 1_000
RELEASE_MS = 80
FIRST_MS = NODE_TIMEOUT_MS + ROUND_TRIP_MS
"""A first call waits one node timeout for the dials, and then for one round."""
LATER_MS = 3 * ROUND_TRIP_MS
"""A later call waits for a connection, a greeting and a round at most."""
FAULTS = (*MOODS, "frozen", "down")
MINORITIES = ((4,), (3, 4), (0, 1))
MAJORITIES = ((2, 3, 4), (0, 1, 2, 3, 4))
TTL = 5.0


def spoil(cluster: Cluster, fault: str, places: tuple[int, ...]) -> None:
    for node in (cluster.nodes[place] for place in places):
        if fault == "frozen":
            node.frozen_until = 10**15
        elif fault == "down":
            node.stop()
            cluster.network.stop(node)
        else:
            node.mood = fault


def a_lock(cluster: Cluster, process: Process) -> Lock:
    client = cluster.run(process, process.client)
    return client.lock("a", ttl=TTL, blocking_timeout=TIMEOUT_MS / 1000, thread_local=False)


def took_ms(cluster: Cluster, process: Process, call: Callable[[], object], expected: object = None) -> float:
    result, length_ms = cluster.timed(process, call)
    assert (type(result).__name__ if isinstance(result, Exception) else result) == expected
    return length_ms


@pytest.mark.parametrize("places", MINORITIES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_minority_costs_one_node_timeout_once(cluster: Cluster, fault: str, places: tuple[int, ...]) -> None:
    process = cluster.process()
    spoil(cluster, fault, places)
    lock = a_lock(cluster, process)
    assert took_ms(cluster, process, lock.acquire, expected=True) <= FIRST_MS
    for _ in range(3):
        # Meanwhile the nodes are due for another dial, which no call waits for.
        cluster.wait(700)
        assert took_ms(cluster, process, lock.reacquire, expected=True) <= LATER_MS
        assert took_ms(cluster, process, lock.release) <= LATER_MS
        assert took_ms(cluster, process, lock.acquire, expected=True) <= LATER_MS


@pytest.mark.parametrize("places", MINORITIES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_minority_that_turns_bad_costs_no_timeout(cluster: Cluster, fault: str, places: tuple[int, ...]) -> None:
    process = cluster.process()
    lock = a_lock(cluster, process)
    assert took_ms(cluster, process, lock.acquire, expected=True) <= FIRST_MS
    spoil(cluster, fault, places)
    assert took_ms(cluster, process, lock.reacquire, expected=True) <= LATER_MS
    assert took_ms(cluster, process, lock.release) <= LATER_MS
    # The node is suspect, and its next dial is waited for once.
    assert took_ms(cluster, process, lock.acquire, expected=True) <= FIRST_MS


@pytest.mark.parametrize("places", MAJORITIES)
@pytest.mark.parametrize("fault", FAULTS)
def test_no_call_lasts_longer_with_a_bad_majority(cluster: Cluster, fault: str, places: tuple[int, ...]) -> None:
    process = cluster.process()
    lock = a_lock(cluster, process)
    took_ms(cluster, process, lock.acquire, expected=True)
    spoil(cluster, fault, places)
    assert took_ms(cluster, process, lock.reacquire, expected="QuorumUnavailable") <= 2 * NODE_TIMEOUT_MS
    assert took_ms(cluster, process, lock.release) <= RELEASE_MS + 2 * NODE_TIMEOUT_MS
    attempt = cluster.run(process, process.client).lock("a", blocking=False)
    assert took_ms(cluster, process, attempt.acquire, expected="QuorumUnavailable") <= 2 * NODE_TIMEOUT_MS
    limit_ms = TIMEOUT_MS + 2 * NODE_TIMEOUT_MS
    assert took_ms(cluster, process, lock.acquire, expected="QuorumUnavailable") <= limit_ms


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("fault", FAULTS)
def test_a_waiter_keeps_its_limit_on_any_bad_node(cluster: Cluster, fault: str, place: int) -> None:
    holder, waiter = cluster.process(), cluster.process()
    held, waiting = a_lock(cluster, holder), a_lock(cluster, waiter)
    took_ms(cluster, holder, held.acquire, expected=True)
    spoil(cluster, fault, (place,))
    limit_ms = TIMEOUT_MS + 2 * NODE_TIMEOUT_MS
    for _ in range(2):
        assert took_ms(cluster, waiter, waiting.acquire, expected=False) <= limit_ms

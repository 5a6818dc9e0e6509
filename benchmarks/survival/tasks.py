"""Faults of workers and of the Redis of the lock, and their effect on the tasks.

Invariants:
1. The invariants of the module `locks` hold here too.
2. Each package uses one Redis as its README shows, this lock uses five.
3. The lines of the task body show the runs and their order.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

from redis import Redis

from benchmarks.survival.cluster import DONE, ClusterFixture, Play
from benchmarks.survival.outcome import Outcome, brief
from benchmarks.survival.workers import Refused, passed

if TYPE_CHECKING:
    from collections.abc import Callable

_SHORT = 2
"""Seconds: the timeout of the scenarios that set a timeout."""
_SOON_MS = 10_000
_TIMEOUT = 8.0
_AOF = ("--appendonly", "yes", "--appendfsync", "always")


def killed_by_default(cluster_fixture: ClusterFixture) -> Outcome:
    """Worker killed in the task, default settings: is the lock free again within 10 s?"""
    with cluster_fixture.play(workers=2) as play:
        play.send(1, 60)
        os.killpg(play.holding()["worker"], signal.SIGKILL)
        with Redis.from_url(play.nodes[0].url) as redis:
            left = max((redis.pttl(key) for key in _lock_keys(play.nodes[0].url)), default=0)
        if left == -1:
            return Outcome(survived=False, how="the key stays for ever")
        return Outcome(left < _SOON_MS, "", left / 1000, "s left of the key")


def killed(cluster_fixture: ClusterFixture) -> Outcome:
    """Worker killed in the task, timeout set to 2 s: does the next task run within 4 s?"""
    with cluster_fixture.play(timeout=_SHORT, workers=2) as play:
        play.send(1, 60)
        worker = play.holding()["worker"]
        since = time.monotonic()
        os.killpg(worker, signal.SIGKILL)
        # Repeated, because a sender may refuse or drop the task.
        if not passed(lambda: _sent_and_begun(play), DONE, 0.1):
            return Outcome(survived=False, how=f"not within {DONE:g} s")
        waited = float(play.log("in", 2)[0]["at"]) - since
        return Outcome(waited < 2 * _SHORT, "", waited)


def longer(cluster_fixture: ClusterFixture) -> Outcome:
    """Timeout set to 2 s, and a task takes 5 s: does the next task wait for its end?"""
    with cluster_fixture.play(timeout=_SHORT) as play:
        play.send(1, 5)
        play.holding()
        time.sleep(_SHORT + 1)  # past the timeout, while the first task runs
        return _apart(play)


def restarted_empty(cluster_fixture: ClusterFixture) -> Outcome:
    """The lock's Redis (or a node of five) is killed in the task and comes back empty: does the next task wait?"""
    return _restarted(cluster_fixture)


def restarted(cluster_fixture: ClusterFixture) -> Outcome:
    """The same, with an AOF that is written at once?"""
    return _restarted(cluster_fixture, *_AOF)


def down(cluster_fixture: ClusterFixture) -> Outcome:
    """The lock's Redis (or a node of five) is dead: can tasks be sent, and do they run?"""
    with cluster_fixture.play(down=True) as play:
        try:
            play.send(1)
        except Refused as why:
            return Outcome(survived=False, how=f"sending raises {brief(why)}")
        return Outcome(play.done(1))


def sent_twice(cluster_fixture: ClusterFixture) -> Outcome:
    """Two tasks with different work want the same lock: is the work of both done?"""
    with cluster_fixture.play() as play:
        first = play.send(1, 2)
        play.holding()
        try:
            second = play.send(2)
        except Refused as why:
            return Outcome(survived=False, how=f"sending the second raises {str(why).partition(':')[0]}")
        if play.done(2, _TIMEOUT):
            return Outcome(survived=True, how="the second goes back to the queue and runs afterwards")
        how = "the second is dropped"
        return Outcome(survived=False, how=f"{how}, the sender gets the first task's id" if first == second else how)


def retried(cluster_fixture: ClusterFixture) -> Outcome:
    """A task retries once: is the work done, and is the lock free afterwards?"""
    with cluster_fixture.play() as play:
        play.send(1, 0, retries=1)
        if not play.done(1, _TIMEOUT):
            ran = len(play.log("in", 1))
            return Outcome(survived=False, how=f"the retry never runs ({ran} run), and {_next(play)}")
        how = _next(play)
        return Outcome(how == "the next task runs", how)


def revoked(cluster_fixture: ClusterFixture) -> Outcome:
    """A task is revoked with terminate while running: does the next task run within 10 s, default settings?"""
    with cluster_fixture.play() as play:
        task_id = play.send(1, 60)
        play.holding()
        play.revoke(task_id)
        since = time.monotonic()
        if not passed(lambda: _sent_and_begun(play), 10, 0.1):
            return Outcome(survived=False, how="not within 10 s")
        return Outcome(survived=True, figure=float(play.log("in", 2)[0]["at"]) - since)


SCENARIOS: tuple[Callable[[ClusterFixture], Outcome], ...] = (
    killed_by_default, killed, longer, restarted_empty, restarted, down, sent_twice, retried, revoked,
)  # fmt: skip


def _restarted(cluster_fixture: ClusterFixture, *options: str) -> Outcome:
    with cluster_fixture.play(options=options) as play:
        play.send(1, 4)
        play.holding()
        play.nodes[0].kill()
        play.nodes[0].start()
        return _apart(play)


def _lock_keys(url: str) -> list[str]:
    """The lock's keys on a server. The other keys are records of this project's nodes, with a control character."""
    with Redis.from_url(url, decode_responses=True) as redis:
        return [key for key in redis.scan_iter() if key.isprintable()]


def _sent_and_begun(play: Play) -> bool:
    """Send task 2 unless a copy is on its way, and return whether the task has begun."""
    if play.log("in", 2):
        return True
    if not play.store.exists("sent"):
        first = play.log("in", 1)[0]["id"]
        with contextlib.suppress(Refused):
            if play.send(2) not in (None, first):
                play.store.set("sent", 1)
    return False


def _apart(play: Play) -> Outcome:
    """Send a second task while the first is in its body, and return whether the bodies did not overlap."""
    if play.log("out", 1):
        raise Refused("the first task was done too early")
    try:
        play.send(2, 0.1)
    except Refused as why:
        return Outcome(survived=True, how=f"sending raises {str(why).partition(':')[0]}")
    if not play.done(1):
        return Outcome(survived=False, how="the first task is never done")
    if not play.log("in", 2) and not play.started(2, _TIMEOUT):
        return Outcome(survived=True, how="the second task is dropped")
    if play.log("in", 2)[0]["at"] >= play.log("out", 1)[0]["at"]:
        return Outcome(survived=True, how="the second task runs afterwards")
    return Outcome(survived=False, how="two at once")


def _next(play: Play) -> str:
    """Send task 2 until it runs, because the first lock may end a moment after the body; return the result."""
    if passed(lambda: _sent_and_begun(play), _TIMEOUT, 0.1):
        return "the next task runs"
    return f"the next task does not run within {_TIMEOUT:g} s"

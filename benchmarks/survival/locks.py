"""Faults of nodes, links and clients, and the reaction of each lock.

Invariants:
1. A scenario is a function from a fixture to an outcome. The first line of its docstring is a question, and yes is the
   good answer.
2. The verdict comes from the nodes, the data or another client, and not from the report of the library.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from redis import Redis

from benchmarks.bench import Bench, Options
from benchmarks.environment import NODE, OURS
from benchmarks.process import PeerFailed
from benchmarks.scenarios import hot
from benchmarks.survival.outcome import Outcome, brief
from benchmarks.survival.workers import NAME, NODE_TIMEOUT_MS, Player, Refused, WorkerFixture, passed
from redlock.testing.redis_server import Server

if TYPE_CHECKING:
    from collections.abc import Callable

_TTL = 2.0
_AT_ONCE = 1.0
"""Seconds within which a free lock must be acquired."""
_LATE = 1.0
"""Seconds that a machine under load may add."""
_LONG = 20.0
_QUORUM = 3


def dead_at_connect(fixture: WorkerFixture) -> Outcome:
    """A node is dead when the client starts: are acquire and release done within 1 s each?"""
    fixture.nodes[0].kill()
    with fixture.player(_TTL) as one:
        return _used_twice(one)


def two_dead(fixture: WorkerFixture) -> Outcome:
    """Two of five nodes are killed while the client is connected: are acquire and release done within 1 s each?"""
    return _two_struck(fixture, Server.kill)


def two_frozen(fixture: WorkerFixture) -> Outcome:
    """Two of five nodes are frozen while the client is connected: are acquire and release done within 1 s each?"""
    return _two_struck(fixture, Server.freeze)


def emptied(fixture: WorkerFixture) -> Outcome:
    """Of three nodes that granted, the first restarts empty: is there no second holder during the lease?"""
    with fixture.player(_TTL) as one, fixture.player(_TTL) as other:
        # A foreign key on two nodes leaves three that grant; no node is silent and no link is cut.
        fixture.put(one.key, "left over", (3, 4))
        since = one.take(_LONG)["since"]
        fixture.put(one.key, None, (3, 4))
        fixture.nodes[0].kill()
        fixture.nodes[0].start()
        try:
            at = other.take(max(0.1, since + _TTL - time.monotonic()))["at"]
        except Refused:
            return Outcome(survived=True)
        if at >= since + _TTL:
            return Outcome(survived=True)
        return Outcome(
            survived=False, how="a second holder", figure=at - since, unit=f"s after the first, of {_TTL:g} s"
        )


def replies_lost(fixture: WorkerFixture) -> Outcome:
    """Two nodes act and their replies are lost: does the next client acquire within 1 s of the release?"""
    with fixture.player(_TTL, linked=True) as one, fixture.player(_TTL) as other:
        _warm(one)
        for place in (3, 4):
            fixture.links[place].hold("from")
        said = []
        try:
            one.take(2 * _TTL)
            one.ask("drop", _LONG)
        except Refused as why:
            said.append(brief(why))
        if not passed(lambda: not fixture.count(one.key), _TTL / 4):
            said.append(f"the key stays on {fixture.count(one.key)} nodes until its expiry")
        before = time.monotonic()
        waited = other.take(_LONG)["at"] - before
        taken = not said or said[0].startswith("the key")
        return Outcome(taken and waited < _AT_ONCE, "; ".join(said), waited, "s until the next acquire")


def holder_dies(fixture: WorkerFixture) -> Outcome:
    """The holder is killed: does the next client acquire after the TTL of 2 s?"""
    with fixture.player(_TTL) as one, fixture.player(_TTL) as other:
        since = one.take(_LONG)["since"]
        other.tell("take", name=NAME)
        one.kill()
        try:
            waited = other.hear(_LONG)["at"] - since
        except Refused as why:
            return Outcome(survived=False, how=brief(why))
        return Outcome(waited < _TTL + _LATE, "", waited)


def frozen_writer(fixture: WorkerFixture) -> Outcome:
    """A holder frozen past its lease writes without a fence: does the other holder's update survive?"""
    return _frozen_past_its_lease(fixture, fenced=False)


def fenced_writer(fixture: WorkerFixture) -> Outcome:
    """The same, with a store that checks the lock's token?"""
    if fixture.kind is not OURS:
        return Outcome(None, "no token that a store could check")
    return _frozen_past_its_lease(fixture, fenced=True)


def late_release(fixture: WorkerFixture) -> Outcome:
    """A late release, after expiry and after a new acquire: does the new holder keep the lock?"""
    with fixture.player(_TTL) as one, fixture.player(4 * _TTL) as other:
        one.take(_LONG)
        with one.frozen():
            other.take(_LONG)
            before = fixture.values(one.key)
        reported = "no error for the late holder"
        try:
            one.ask("drop", _LONG)
        except Refused as why:
            reported = f"the late holder gets {str(why).partition(':')[0]}"
        kept = sum(
            value is not None and value == old for value, old in zip(fixture.values(one.key), before, strict=True)
        )
        return Outcome(kept >= _QUORUM, reported)


def frozen_asker(fixture: WorkerFixture) -> Outcome:
    """A client is frozen past the TTL while replies are in transit: does the client report no lock?"""
    found = _frozen_while_asking(fixture, NAME, NODE_TIMEOUT_MS)
    if fixture.kind is NODE:
        bare = _frozen_while_asking(fixture, "another", 0)
        verdict = "not measured" if bare.survived is None else "yes" if bare.survived else "no"
        return found._replace(how=f"without ioredis's commandTimeout: {verdict}{bare.how and f', {bare.how}'}")
    return found


def contention(fixture: WorkerFixture) -> Outcome:
    """Eight processes compete for 4 s, with a counter inside: is every process served, and the counter right?"""
    bench = Bench(Options(quick=True, rounds=1, out=fixture.out), (fixture.kind,))
    load = hot.Load(fixture.nodes.urls, fixture.store.url, hot.PROCESSES, 4.0)
    try:
        found = hot.once(bench, fixture.kind, load)
    except PeerFailed as why:
        return Outcome(survived=False, how=brief(why))
    wrong = "the counter is wrong" if found.wrong else ""
    starved = "" if found.fairness else "a process was never served"
    how = (
        ", ".join(part for part in (wrong, starved) if part) or f"the least served had {found.fairness:.0%} of the most"
    )
    return Outcome(not found.wrong and found.fairness > 0, how, max(found.wait_ms) / 1000, "s longest wait")


SCENARIOS: tuple[Callable[[WorkerFixture], Outcome], ...] = (
    dead_at_connect, two_dead, two_frozen, emptied, replies_lost, holder_dies, frozen_writer, fenced_writer,
    late_release, frozen_asker, contention,
)  # fmt: skip


def _warm(one: Player) -> None:
    """Connect to all nodes."""
    one.take(_LONG, "warm")
    one.ask("drop", _LONG)


def _two_struck(fixture: WorkerFixture, strike: Callable[[Server], None]) -> Outcome:
    with fixture.player(_TTL) as one:
        _warm(one)
        for place in (1, 3):
            strike(fixture.nodes[place])
        return _used_twice(one)


def _used_twice(one: Player) -> Outcome:
    """Acquire and release twice, because the second acquire meets the keys and connections of the first."""
    slowest = 0.0
    for do in ("take", "drop", "take", "drop"):
        before = time.monotonic()
        try:
            one.ask(do, _LONG, name=NAME)
        except Refused as why:
            return Outcome(survived=False, how=brief(why))
        slowest = max(slowest, time.monotonic() - before)
    return Outcome(slowest < _AT_ONCE, "", slowest)


def _frozen_while_asking(fixture: WorkerFixture, name: str, node_timeout_ms: int) -> Outcome:
    with fixture.player(_TTL, linked=True, node_timeout_ms=node_timeout_ms) as one:
        key = one.key.removesuffix(NAME) + name
        _warm(one)
        for link in fixture.links:
            link.hold("from")
        one.tell("take", name=name)
        if not passed(lambda: bool(fixture.count(key)), _AT_ONCE, 0.001):
            return Outcome(None, "nothing was sent")
        with one.frozen():
            for link in fixture.links:
                link.restore()
            time.sleep(_TTL + 0.2)  # the end of a lease is a matter of time
        try:
            one.hear(_LONG)
        except Refused as why:
            return Outcome(survived=True, how=f"raises {brief(why)}")
        on = fixture.count(key)
        return Outcome(on >= _QUORUM, "" if on >= _QUORUM else f"the client reports a lock that is on {on} nodes")


def _frozen_past_its_lease(fixture: WorkerFixture, *, fenced: bool) -> Outcome:
    with fixture.player(_TTL) as one, fixture.player(_TTL) as other:
        one.take(_LONG)
        one.ask("read", store=fixture.store.url, fenced=fenced)
        with one.frozen():
            other.take(_LONG)
            other.ask("read", store=fixture.store.url, fenced=fenced)
            other.ask("write")
            other.ask("drop")
            done = _counter(fixture, fenced=fenced)
        reported = ""
        try:
            one.ask("write")
        except Refused as why:
            reported = f"the late write is refused: {str(why).partition(':')[0]}"
        # The write of the other holder and, unless the late write is refused, one more.
        expected = done if reported else done + 1
        right = _counter(fixture, fenced=fenced) == expected
        return Outcome(right, reported or ("" if right else "an update is lost"))


def _counter(fixture: WorkerFixture, *, fenced: bool) -> int:
    with Redis.from_url(fixture.store.url) as redis:
        return int((redis.hget("store:counter", "value") if fenced else redis.get("counter")) or 0)

"""The simulated server against real servers: the same commands and scripts, and every reply compared.

Rules: chance is seeded, and both sides run the same words. Times and remaining times are compared loosely, all else
exactly. A key runs out on both sides by being given one millisecond, and both sides waiting for longer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis

from redlock._core.commands import Acquire, Command, Confirm, Extend, Inspect, Release, Repair
from redlock._transport import codec as wire
from redlock._transport.codec import Codec, Script
from tests import servers
from tests.sim import nodes as simulated
from tests.sim.pair import VOTE, Pair, running
from tests.sim.world import World
from tests.unit.helpers import script_call

MAX_TTL_MS = 60_000
STEPS = 400
SEEDS = (1, 2, 3)


@pytest.fixture(params=["Redis 8", "Redis 7.0", "Redis 6.2", "Valkey 8", "Valkey 9"])
def redis(request: pytest.FixtureRequest) -> Iterator[Redis]:
    with running(servers.program(request.param)) as client:
        yield client


_RAW = "return redis.call(ARGV[1], KEYS[1], unpack(ARGV, 2))"


def _raw(pair: Pair, chance: random.Random) -> None:
    """A command on a random key of a few keys, so that types and leftovers meet."""
    key, field = chance.choice(("k", "l", "m")), chance.choice(("f", "g", "h"))
    number = str(chance.choice((0, 1, 7, 2**52, -3)))
    name, *arguments = chance.choice((
        ("GET",),
        ("SET", chance.choice(("", "x", "reserved", number))),
        ("SET", "y", "PX", "60000"),
        ("DEL",),
        ("EXISTS",),
        ("PTTL",),
        ("PEXPIRE", chance.choice(("30000", "60000"))),
        ("HSET", field, number),
        ("HSET", "f", "1", "g", "2"),
        ("HGET", field),
        ("HMGET", "f", "g", "h"),
        ("HINCRBY", field, "1"),
        ("HDEL", field),
        ("LLEN",),
        ("RPUSH", "1"),
        ("LPOP",),
    ))  # fmt: skip
    if name == "HGET":
        # The scripts do not use HGET; HMGET reads the same.
        name = "HMGET"
    pair.run(_RAW, (key,), (name, *arguments), loose=(0,) if name == "PTTL" else ())


def _run_out(pair: Pair, chance: random.Random) -> None:
    """A key's time is over."""
    key = chance.choice(("k", "l", "m", "a", "b", wire.fence_key("a"), wire.queue_key("a"), wire.wake_key("a")))
    pair.run(_RAW, (key,), ("PEXPIRE", "1"), loose=())
    pair.wait(0.006)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_command_answers_as_redis_does(redis: Redis, seed: int) -> None:
    pair, chance = Pair(redis), random.Random(seed)
    for _ in range(STEPS):
        (_run_out if chance.random() < 0.05 else _raw)(pair, chance)
    assert pair.compared > STEPS / 2


CONVERSIONS = (
    "return 3.99",
    "return -3.99",
    "return '3.99'",
    "return true",
    "return false",
    "return nil",
    "return {1, 2.5, -2.5, 'x'}",
    "return {1, nil, 3}",
    "return {false, 1}",
    "return {1, false, 'x'}",
    "return {4503599627370495}",
    "return {1700000000000001.0, string.format('%.0f', 1700000000000001)}",
    "redis.call('SET', 'n', 4503599627370495) return redis.call('GET', 'n')",
    "redis.call('HSET', 'n2', 'f', 4503599627370495) return redis.call('HMGET', 'n2', 'f', 'none')",
    "return redis.error_reply('FENCE token 4 is not below 3')",
    "return {tonumber('4503599627370495') + 1}",
    "return {tonumber('0') or 7, tonumber('x') or 7}",
)


def test_replies_are_converted_as_redis_does(redis: Redis) -> None:
    pair = Pair(redis)
    for source in CONVERSIONS:
        pair.run(source, (), (), loose=())


def _command(chance: random.Random) -> Command:
    names = chance.choice((("a",), ("a",), ("b",), ("a", "b")))
    token = chance.choice(("t1:x", "t2:y", "t3:z"))
    ttl_ms = chance.choice((20_000, 40_000, 60_000))
    fence = chance.choice((1, 5, 9, 1_700_000_000_000_001, 1_700_000_000_000_007, 2**52 - 2, 2**52))
    woken, waits_ms = chance.random() < 0.3, chance.choice((0, 20_000, 30_000))
    commands: tuple[Callable[[], Command], ...] = (
        lambda: Acquire(names, token, ttl_ms, fence, woken, waits_ms),
        lambda: Acquire(names, token, ttl_ms, fence, woken, waits_ms),
        lambda: Confirm(names, token, fence),
        lambda: Extend(names, token, ttl_ms),
        lambda: Repair(names, token, ttl_ms, fence),
        lambda: Release(names, token, waits_ms),
        lambda: Inspect(names[:1]),
    )
    return chance.choice(commands)()


def _ask(pair: Pair, codec: Codec, command: Command, run_id: str) -> list[Any] | Exception:
    call = script_call(codec, command)
    last = (run_id,) if call.script.admits else ()
    answer: list[Any] | Exception
    answer = pair.run(call.script.source.decode(), call.keys, (*call.arguments, *last), loose=VOTE)
    return answer


def _declare(pair: Pair, run_id: str) -> None:
    pair.run(Script.load("declare").source.decode(), (wire.RECORD,), (run_id,), loose=())


def _spoil(pair: Pair, chance: random.Random) -> None:
    """Something that no client of ours does: keys of other types, other people's locks, no record, no memory."""
    key = chance.choice(("a", "b", wire.fence_key("a"), wire.queue_key("a"), wire.wake_key("a"), wire.RECORD))
    name, *arguments = chance.choice((("DEL",), ("RPUSH", "1"), ("HSET", "x", "y"), ("SET", "foreign")))
    pair.run(_RAW, (key,), (name, *arguments), loose=())


@pytest.mark.parametrize("seed", SEEDS)
def test_the_scripts_of_the_lock_answer_as_on_redis(redis: Redis, seed: int) -> None:
    pair, chance = Pair(redis), random.Random(seed)
    # Long reservations: a short one could end between the two servers' answers to the same command.
    codec, other = (Codec(nodes, "", MAX_TTL_MS, reserve_ms=20_000) for nodes in (5, 3))
    kinds, run_id = set(), "run-1"
    for _ in range(STEPS):
        fate = chance.random()
        if fate < 0.03:
            _run_out(pair, chance)
        elif fate < 0.05:
            _spoil(pair, chance)
        elif fate < 0.07:
            run_id = chance.choice(("run-1", "run-2"))
        elif fate < 0.15:
            pair.run(_RAW, (chance.choice(("a", "b", wire.RECORD)),), ("DEL",), loose=())
            _declare(pair, run_id)
        elif fate < 0.17:
            redis.flushall()
            pair.node.flush()
            _declare(pair, run_id)
        else:
            answer = _ask(pair, other if fate < 0.22 else codec, _command(chance), run_id)
            kinds.add("error" if isinstance(answer, Exception) else answer[0])
    assert kinds == {1, 0, 2, 3, "error"}, "not every answer was met"


def test_the_doors_of_the_store_answer_as_on_redis(redis: Redis) -> None:
    pair, chance = Pair(redis), random.Random(4)
    opened, written = Script.load("open").source.decode(), Script.load("write").source.decode()
    verdicts, number = set(), 1
    for step in range(STEPS):
        fence, owner = str(chance.choice((3, 4, 4, 5)) + step // 40), chance.choice(("t1", "t1", "t2"))
        if chance.random() < 0.5:
            answer = pair.run(opened, ("s",), (fence, owner), loose=())
            number = answer[1] if answer[0] == "OPEN" else number
        else:
            done = wire.operation_key("s", f"{chance.randrange(30)}")
            section = str(number - chance.choice((0, 0, 0, 1)))
            answer = pair.run(written, ("s", done), (fence, owner, section, str(step), "60000"), loose=())
        verdicts.add(answer[0])
    assert verdicts == {"OPEN", "STALE", "WRITTEN", "DUPLICATE"}


def test_both_luas_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    for name in ("lupa.luajit21", "lupa.lua51"):
        runtime = pytest.importorskip(name, reason="this wheel of lupa lacks one of the two").LuaRuntime
        monkeypatch.setattr(simulated, "LuaRuntime", runtime)
        node = simulated.Node(World(0), simulated.Lua(), 0)
        chance, codec, answers = random.Random(5), Codec(5, "", MAX_TTL_MS), []
        node.declare()
        for step in range(5 * STEPS):
            node.world.now = step * 700_000
            answer = node.call(script_call(codec, _command(chance)), chance.choice((node.run_id,) * 40 + ("another",)))
            answers.append(str(answer))
            if step % 100 == 0:
                node.flush()
                node.declare()
        told.append(answers)
    assert told[0] == told[1]

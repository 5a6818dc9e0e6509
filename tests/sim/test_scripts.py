"""Every script on thousands of memories of a node: the reply and the whole memory afterwards, beside a plain model.

A memory gives each name of a set its own lock, fence, reservation and wake-up. Chance is seeded.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

from redlock._core.commands import Acquire, Command, Confirm, Extend, Inspect, Release, Repair
from redlock._transport import codec as wire
from redlock._transport.codec import Codec
from tests.sim.nodes import EPOCH_MS, Lua, Node
from tests.sim.script_model import (
    DAY_MS,
    FIELDS,
    HOUR_MS,
    LIMIT,
    Model,
    Reply,
    admit,
    declare,
    fence_of,
    opened,
    queue_of,
    wake_of,
    written,
)
from tests.sim.server import encode
from tests.sim.world import World
from tests.unit.helpers import script_call

MEMORIES = 400
LONG = f"{'x' * 2_043}*1234yy"
"""A text of another program: the first 2,048 bytes end like the header of a long list."""
OURS, OTHERS = f"{1:032x}:ours", ("foreign", f"{2:032x}:other", LONG)
NOW_US = EPOCH_MS * 1_000
AHEAD = (EPOCH_MS + HOUR_MS) * 1_000
FENCES = (1, NOW_US - 1, NOW_US, NOW_US + 1, NOW_US + HOUR_MS, AHEAD - 1, AHEAD, AHEAD + 1, LIMIT, LIMIT + 1)
LENGTHS = (1, 40, 999, 5_000, 10_000)
SETS = (("a",), ("a", "b"), ("a", "b", "c"))
RESERVE_MS = 50
LUA = Lua()
PUT = LUA.by_text(b"return redis.call(ARGV[1], KEYS[1], unpack(ARGV, 2))")
MAX_TTL_MS, QUARANTINE_MS = 10_000, 10_102
CODEC = Codec(5, "", MAX_TTL_MS, RESERVE_MS)


class Pair:
    """A node that votes, and the model of its memory."""

    def __init__(self) -> None:
        self.node = Node(World(0), LUA, 0)
        self.node.declare()
        self.model = Model(self.node.time_ms())

    def put(self, key: str, value: object, ms: int | None) -> None:
        """A key in both memories."""
        words = ("SET", value) if isinstance(value, str) else ("RPUSH", "1")
        self.node.run_words(PUT, 1, (key, *words))
        if ms is not None:
            self.node.run_words(PUT, 1, (key, "PEXPIRE", str(ms)))
        self.model[key] = value, None if ms is None else self.model.now + ms

    def memory(self) -> dict[str, tuple[object, int | None]]:
        """The memory of the node, without its record."""
        values, expires = self.node._server.snapshot().values()
        found = {
            key: value if isinstance(value, str) else list(value["items"].values())
            for key, value in values.items()
            if key != wire.RECORD
        }
        return {key: (value, expires[key]) for key, value in found.items()}


def fill(pair: Pair, chance: random.Random, token: str) -> None:
    """Lock, fence, reservation and wake-up of each name: each is there or not."""
    for name in SETS[-1]:
        if holder := chance.choice((None, token, token, *OTHERS)):
            pair.put(name, holder, chance.choice((*LENGTHS, None) if holder != token else LENGTHS))
        if chance.random() < 0.8:
            pair.put(fence_of(name), str(chance.choice(FENCES[:6] if chance.random() < 0.95 else FENCES)), DAY_MS // 2)
        if waited := chance.choice((None, "waited for", "reserved")):
            pair.put(queue_of(name), waited, chance.choice(LENGTHS))
        if chance.random() < 0.3:
            pair.put(wake_of(name), ["1"], 700)


def acquire(model: Model, chance: random.Random, names: tuple[str, ...]) -> tuple[Command, Reply]:
    proposed, woken = (
        chance.choice((*FENCES[1:5], *FENCES) if chance.random() < 0.3 else FENCES[:5]),
        chance.random() < 0.4,
    )
    waits_ms, ttl_ms = chance.choice((0, *LENGTHS)), chance.choice(LENGTHS)
    command = Acquire(names, OURS, ttl_ms, proposed, woken, waits_ms, 0)
    return command, model.acquire(names, OURS, ttl_ms, proposed, waits_ms, woken=woken)


def confirm(model: Model, chance: random.Random, names: tuple[str, ...]) -> tuple[Command, Reply]:
    fence = chance.choice(FENCES)
    return Confirm(names, OURS, fence), model.confirm(names, OURS, fence)


def extend(model: Model, chance: random.Random, names: tuple[str, ...]) -> tuple[Command, Reply]:
    ttl_ms = chance.choice(LENGTHS)
    return Extend(names, OURS, ttl_ms), model.extend(names, OURS, ttl_ms)


def repair(model: Model, chance: random.Random, names: tuple[str, ...]) -> tuple[Command, Reply]:
    ttl_ms, fence = chance.choice(LENGTHS), chance.choice(FENCES)
    return Repair(names, OURS, ttl_ms, fence), model.repair(names, OURS, ttl_ms, fence)


def release(model: Model, chance: random.Random, names: tuple[str, ...]) -> tuple[Command, Reply]:
    wake_ms = chance.choice((0, 700, 5_000))
    return Release(names, OURS, wake_ms), model.release(names, OURS, wake_ms, RESERVE_MS)


def inspect(model: Model, chance: random.Random, names: tuple[str, ...]) -> tuple[Command, Reply]:
    name = (chance.choice(names),)
    return Inspect(name), model.inspect(name)


def said(answer: list[Any] | Exception) -> Reply:
    """A reply of the node as the model gives it."""
    return str(answer).partition(" ")[0] if isinstance(answer, Exception) else answer


@pytest.mark.parametrize("ask", [acquire, confirm, extend, repair, release, inspect])
def test_a_script_answers_and_writes_as_its_comment_says(
    ask: Callable[[Model, random.Random, tuple[str, ...]], tuple[Command, Reply]],
) -> None:
    chance, replies = random.Random(1), set()
    for _ in range(MEMORIES):
        pair = Pair()
        fill(pair, chance, OURS)
        command, expected = ask(pair.model, chance, chance.choice(SETS))
        before = pair.memory()
        answer = said(pair.node.call(script_call(CODEC, command), pair.node.run_id))
        assert answer == expected, (command, before)
        assert pair.memory() == pair.model, (command, before)
        replies.add(answer if isinstance(answer, str) else answer[0])
    assert {0, 1} <= replies, "not every reply was met"


def test_a_holder_in_a_reply_has_2048_bytes_at_most() -> None:
    for text in ("x" * 2_048, "x" * 2_049):
        pair = Pair()
        pair.put("a", text, 1_000)
        assert said(pair.node.call(script_call(CODEC, Inspect(("a",))), "")) == pair.model.inspect(("a",)), text


def test_a_clock_far_ahead_admits_no_token_beyond_the_limit() -> None:
    """Lua counts in doubles: a larger token and the next one would be the same number."""
    for fence in (LIMIT - 1, LIMIT, LIMIT + 1):
        for stored in (fence - 1, fence):
            for command in (Acquire(("a",), OURS, 5_000, fence), Confirm(("a",), OURS, fence)):
                pair = Pair()
                pair.node.offset_ms = pair.model.now = 5 * 10**12
                pair.put(fence_of("a"), str(stored), None)
                if isinstance(command, Confirm):
                    pair.put("a", OURS, 1_000)
                    expected = pair.model.confirm(("a",), OURS, fence)
                else:
                    expected = pair.model.acquire(("a",), OURS, 5_000, fence, 0)
                answer = said(pair.node.call(script_call(CODEC, command), pair.node.run_id))
                assert answer == expected, (command, stored)


def test_a_wake_up_is_passed_on_once_for_each_name() -> None:
    chance = random.Random(2)
    for _ in range(MEMORIES):
        pair, names = Pair(), chance.choice(SETS)
        fill(pair, chance, OURS)
        expected = pair.model.wake(names, 5_000)
        assert pair.node.run_words(LUA.wake, len(names), (*CODEC.wake_keys(names), "5000")) == expected
        assert pair.memory() == pair.model


def record_of(node: Node) -> dict[str, str]:
    names = ("run_id", "since", "quarantine", "fingerprint")
    return {name: text for name in names if (text := node.field(wire.RECORD, name)) is not None}


def test_a_node_votes_abstains_or_rejects_as_its_record_says() -> None:
    chance, replies = random.Random(3), set()
    ages = (-5, -1, 0, 1, 4_000, QUARANTINE_MS - 1, QUARANTINE_MS, QUARANTINE_MS + 1, 20_000, 10**12)
    for _ in range(MEMORIES):
        node = Node(World(chance.choice((0, 1_500))), LUA, 0)
        node.world.now = chance.choice((0, 123_000, 999_000))
        record: dict[str, str] = {}
        if chance.random() < 0.9:
            record["run_id"] = chance.choice((node.run_id, node.run_id, node.run_id, "another"))
            record["since"] = str(node.time_ms() - chance.choice(ages))
            if quarantine := chance.choice((None, 4_000, QUARANTINE_MS, 20_000)):
                record["quarantine"] = str(quarantine)
            if fingerprint := chance.choice((None, CODEC.fingerprint, "others", LONG)):
                record["fingerprint"] = fingerprint
            node.run_words(PUT, 1, (wire.RECORD, "HSET", *(word for pair in record.items() for word in pair)))
        expected, after = admit(record, node.time_ms(), node.run_id, CODEC.fingerprint, QUARANTINE_MS)
        answer = said(node.call(script_call(CODEC, Extend(("a",), OURS, 5_000)), node.run_id))
        assert answer == (expected or [0, node.time_ms(), 0, "", 0]), record
        assert record_of(node) == after, record
        replies.add(answer[0])
    assert replies == {0, 2, 3}


RECORDS = itertools.product(("own", "other"), ("0", "5"), (None, "10102"), (None, CODEC.fingerprint))


@pytest.mark.parametrize("fields", [None, *RECORDS])
def test_only_a_node_without_clients_is_declared(fields: tuple[str | None, ...] | None) -> None:
    node = Node(World(0), LUA, 0)
    names = ("run_id", "since", "quarantine", "fingerprint")
    record = {} if fields is None else {name: text for name, text in zip(names, fields, strict=True) if text}
    if record:
        record["run_id"] = node.run_id if record["run_id"] == "own" else "another"
        node.run_words(PUT, 1, (wire.RECORD, "HSET", *(word for pair in record.items() for word in pair)))
    expected, after = declare(record, node.run_id)
    assert node.run_words(LUA.declare, 1, (wire.RECORD, node.run_id)) == [expected]
    assert record_of(node) == after


def test_a_node_that_heard_of_a_client_is_not_declared() -> None:
    node = Node(World(0), LUA, 0)
    words = (wire.RECORD, node.run_id)
    assert [node.run_words(LUA.declare, 1, words) for _ in range(2)] == [[1], [1]]
    node.call(script_call(CODEC, Extend(("a",), OURS, 5_000)), node.run_id)
    assert node.run_words(LUA.declare, 1, words) == [0]


def a_state(node: Node, chance: random.Random) -> dict[str, str]:
    """A state in the fenced store: its tokens and sections are near those of the test."""
    if chance.random() < 0.1:
        return {}
    state = {"fence": chance.choice(("6", "7", "9", "10")), "owner": chance.choice((OURS, "other")), "section": "3"}
    state |= {"value": "v"} if chance.random() < 0.7 else {}
    state |= {"open": chance.choice(("2", "3"))} if chance.random() < 0.8 else {}
    node.run_words(PUT, 1, ("s", "HSET", *(word for pair in state.items() for word in pair)))
    return state


def state_of(node: Node) -> dict[str, str]:
    """The state as the node has it."""
    return {name: text for name in FIELDS if (text := node.field("s", name)) is not None}


def test_the_store_opens_as_the_comment_of_the_script_says() -> None:
    chance, replies = random.Random(4), set()
    for _ in range(MEMORIES):
        node = Node(World(0), LUA, 0)
        state, token = a_state(node, chance), chance.choice((1, 5, 7, 9, 10, 11))
        before = dict(state)
        expected = opened(state, token, OURS)
        answer = node.store("open", ("s",), (str(token), OURS))
        assert (answer, state_of(node)) == (expected, state), (token, before)
        replies.add(expected[0])
    assert replies == {"OPEN", "STALE"}


def test_the_store_writes_as_the_comment_of_the_script_says() -> None:
    chance, replies = random.Random(5), set()
    for _ in range(MEMORIES):
        node = Node(World(0), LUA, 0)
        state, right = a_state(node, chance), (chance.choice(("7", "9", "10")), OURS, chance.choice(("2", "3")))
        old = chance.choice((None, None, "4:before"))
        if old is not None:
            node.set("s:done", old)
        before = dict(state)
        expected = written(state, old, right, "new")
        answer = node.store("write", ("s", "s:done"), (*right, "new", "60000"))
        assert (answer, state_of(node)) == (expected, state), (right, before)
        remembered = None if expected[0] == "STALE" else expected[1]
        for passed_ms, kept in ((59_999, remembered), (1, old)):
            node.world.now += passed_ms * 1_000
            assert node.get("s:done") == kept
        replies.add(expected[0])
    assert replies == {"WRITTEN", "DUPLICATE", "STALE"}


@pytest.mark.parametrize(
    "reply",
    [
        "7",
        "{1, 1700000000000123, -3}",
        "{'text', 'caf\u00e9', '', 2.9}",
        "false",
        "{ok = 'OK'}",
        "redis.error_reply('FENCEAHEAD too far')",
    ],
)
def test_lua_encodes_a_reply_as_python_does(reply: str) -> None:
    node, script = Node(World(0), LUA, 0), LUA.by_text(f"return {reply}".encode())
    assert node.encoded_reply(script, 0, ()) == encode(node.run_words(script, 0, ()))

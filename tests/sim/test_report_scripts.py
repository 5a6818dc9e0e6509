"""The scripts behind `redlock status`: the holders of many locks at once, and the reports of waits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from redlock._transport.codec import Script
from tests.sim.nodes import EPOCH_MS, Lua, Node
from tests.sim.world import World

LUA = Lua()
PUT = LUA.by_text(b"return redis.call(ARGV[1], KEYS[1], unpack(ARGV, 2))")
BASE, PERIOD = "waits:", 4
FIRST = EPOCH_MS // 1_000 // PERIOD
LIST = ("RPUSH", "1")
"""A value of another type."""


@pytest.fixture
def node() -> Node:
    """A node at the beginning of a period."""
    node = Node(World(0), LUA, 0)
    node.offset_ms = FIRST * PERIOD * 1_000
    return node


def put(node: Node, key: str, *words: str, ms: int | None = None) -> None:
    """Run a command of one key, and give the key this time to live."""
    node.run_words(PUT, 1, (key, *words))
    if ms is not None:
        node.run_words(PUT, 1, (key, "PEXPIRE", str(ms)))


def asked(node: Node, name: str, keys: Sequence[str], *arguments: object) -> Any:  # noqa: ANN401 - a reply
    """The reply of a script; lists of Lua become lists."""
    script = LUA.by_text(Script.load(name).source)
    reply = node.run_words(script, len(keys), (*keys, *map(str, arguments)))
    assert isinstance(reply, list), reply
    return [list(part.values()) if hasattr(part, "values") else part for part in reply]


@pytest.mark.parametrize(
    ("stored", "fence"),
    [
        (None, 0),
        (("SET", "77"), 77),
        (("SET", "-1"), 0),
        (("SET", "0"), 0),
        (("SET", str(2**53)), 2**53),
        (("SET", str(2**53 + 2)), 0),
        (("SET", "no number"), 0),
        (("SET", "nan"), 0),
        (LIST, 0),
    ],
    ids=str,
)
def test_a_spoilt_key_hides_neither_its_lock_nor_others(node: Node, stored: tuple[str, ...] | None, fence: int) -> None:
    names = ("free", "held", "lasting", "spoilt", "long")
    keys = [key for name in names for key in (name, f"{name}:fence", f"{name}:queue")]
    put(node, "held", "SET", "me", ms=900)
    put(node, "lasting", "SET", "*1234")
    put(node, "spoilt", *LIST)
    put(node, "long", "SET", "x" * 1_025, ms=900)
    put(node, "held:queue", "SET", "waited for")
    put(node, "free:queue", *LIST)
    if stored is not None:
        for name in names[:2]:
            put(node, f"{name}:fence", *stored)
    assert asked(node, "holders", keys) == [
        [1, 0, fence, 1],
        [0, 0, fence, "me", 900, 1],
        [0, 0, 0, "*1234", -1, 0],
        [1, 0, 0, 0],
        [0, 0, 0, "x" * 1_024, 900, 0],
    ]


def test_a_process_has_one_report_in_each_period(node: Node) -> None:
    key = f"{BASE}{FIRST}"
    for passed_ms, process, count, now in ((0, "p", 1, 0), (999, "q", 2, 999), (2_999, "p", 2, 3_998)):
        node.world.now += passed_ms * 1_000
        assert asked(node, "wait", [BASE], process, f"report {now}", PERIOD) == [count]
    begin = FIRST * PERIOD * 1_000
    assert [node.field(key, name) for name in ("count", "process p", "process q")] == ["2", "1", "2"]
    assert [node.field(key, name) for name in "12"] == [f"p {begin + 3_998} report 3998", f"q {begin + 999} report 999"]
    node.world.now += 2_000
    assert asked(node, "wait", [BASE], "p", "next", PERIOD) == [1]
    for passed_ms, there in ((11_997, True), (1, False)):
        node.world.now += passed_ms * 1_000
        assert (node.field(key, "count") is not None) is there, "for three periods after the last report"


def test_the_reports_of_two_periods_are_read(node: Node) -> None:
    begin = FIRST * PERIOD * 1_000

    def read(most_bytes: int = 10_000, most: int = 10) -> list[str]:
        found = asked(node, "waits", [BASE], PERIOD, most_bytes, most)
        assert found[0] == str(node.time_ms())
        return [text.rpartition(" ")[2] for text in found[1:]]

    assert read() == []
    for process in "pq":
        asked(node, "wait", [BASE], process, f"{process}1", PERIOD)
    node.world.now += 6_999_000
    for process in "pr":
        asked(node, "wait", [BASE], process, f"{process}2", PERIOD)
    assert read() == ["p2", "r2", "p1", "q1"]
    assert read(most=1) == ["p2", "p1"]
    size = len(f"p {begin} p1")
    assert [read(most_bytes=size * count + more) for count, more in ((1, 0), (2, -1), (2, 0), (3, 0))] == [
        ["p2"],
        ["p2"],
        ["p2", "r2"],
        ["p2", "r2", "p1"],
    ]
    put(node, f"{BASE}{FIRST + 1}", "HSET", "count", "1000000000")
    put(node, f"{BASE}{FIRST}", "HDEL", "1")
    assert read(most=5_000) == ["p2", "r2"], "a report that is missing is the end of its period"
    node.world.now += 4_000_000
    assert read() == ["p2", "r2"]
    node.world.now += 4_000_000
    assert read() == []

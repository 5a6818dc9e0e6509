"""The forms that processes with different versions of this package share on the nodes: keys, settings, replies."""

from __future__ import annotations

import pytest

from redlock._core.commands import Command, Release
from redlock._core.votes import Kind, Vote, silent
from redlock._transport.codec import PROBE, Codec, operation_key, waiting_order
from redlock._transport.decoder import decode, disagrees, explain
from tests.unit.helpers import each_command, script_call

CODEC = Codec(5, "p:", 10_000)
NAMES = ("a", "b")
RECORD = "p:\x01redlock:node"
WITH_FENCES = ("p:a", "p:\x01redlock:fence:a", "p:b", "p:\x01redlock:fence:b")
WITH_QUEUES = (
    *("p:a", "p:\x01redlock:fence:a", "p:\x01redlock:queue:a"),
    *("p:b", "p:\x01redlock:fence:b", "p:\x01redlock:queue:b"),
)
WITH_WAKE_UPS = (
    *("p:a", "p:\x01redlock:wake:a", "p:\x01redlock:queue:a"),
    *("p:b", "p:\x01redlock:wake:b", "p:\x01redlock:queue:b"),
)
KEYS = [
    (RECORD, *WITH_QUEUES),
    *[(RECORD, *WITH_FENCES)] * 3,
    WITH_WAKE_UPS,
    WITH_FENCES[2:],
]
"""The keys of a command of each kind."""


@pytest.mark.parametrize(
    ("command", "keys"),
    list(zip(each_command(*NAMES), KEYS, strict=True)),
    ids=lambda value: type(value).__name__,
)
def test_each_version_has_the_same_keys(command: Command, keys: tuple[str, ...]) -> None:
    assert script_call(CODEC, command).keys == keys


def test_a_wake_up_an_operation_and_a_probe_have_the_same_keys() -> None:
    assert CODEC.wake_keys(NAMES) == ["p:\x01redlock:wake:a", "p:\x01redlock:wake:b"]
    assert operation_key("store:x", "op") == "store:x\x01done:op"
    assert PROBE == "\x01redlock:probe"


def test_the_settings_of_a_node_have_the_same_words() -> None:
    assert CODEC.fingerprint == "nodes=5 max_ttl=10s prefix='p:'"
    assert Codec(3, "", 10_123).fingerprint == "nodes=3 max_ttl=10.123s prefix=''"


def test_a_lock_is_reserved_for_50_ms() -> None:
    assert script_call(CODEC, Release(NAMES, "t", 0)).arguments == ("t", "0", "50")


def test_waiters_of_a_resource_choose_the_same_node() -> None:
    assert waiting_order(("account:42",), 5) == (4, 0, 1, 2, 3)
    assert waiting_order(("b", "a"), 5) == (1, 2, 3, 4, 0), "the first name decides"
    assert waiting_order(("b",), 3) == (0, 1, 2)


@pytest.mark.parametrize(
    ("reply", "vote"),
    [
        ([1, 5, 7], Vote(Kind.GRANTED, 7, time_ms=5)),
        ([1, 5, 0], Vote(Kind.GRANTED, time_ms=5)),
        ([1, 0, 7], Vote(Kind.GRANTED, 7)),
        ([1, 0, 0], Vote(Kind.GRANTED)),
        ([0, 5, 7, b"t", 9], Vote(Kind.DENIED, 7, "t", 9, time_ms=5)),
        ([0, 5, 0, "t", 0], Vote(Kind.DENIED, 0, "t", 0, time_ms=5)),
        ([0, 5, 0, b"t", 0], Vote(Kind.DENIED, 0, "t", 0, time_ms=5)),
        ([0, 5, 7, "", 0], Vote(Kind.DENIED, 7, "", 0, time_ms=5)),
        ([0, 5, 7, "t", -1], Vote(Kind.DENIED, 7, "t", None, time_ms=5)),
        ([0, 5, 0, b"t\xff", -1], Vote(Kind.DENIED, 0, "t\N{REPLACEMENT CHARACTER}", time_ms=5)),
        (
            [2, 5, 9_100],
            silent("new, restarted or emptied: abstains for another 9.1 s")._replace(remaining_ms=9_100, time_ms=5),
        ),
        (
            [2, 5, 100_000],
            silent("new, restarted or emptied: abstains for another 100.0 s")._replace(remaining_ms=100_000, time_ms=5),
        ),
        ([3, 5, b"nodes=3"], silent("its clients agreed on nodes=3")._replace(fingerprint="nodes=3", time_ms=5)),
        ([0, 5, -1, b"t", 9], silent("answered something that is no vote: [0, 5, -1, b't', 9]")),
    ],
    ids=str,
)
def test_a_reply_is_exactly_this_vote(reply: object, vote: Vote) -> None:
    assert decode(reply) == vote


def test_foreign_text_in_a_vote_has_a_limit() -> None:
    assert len(disagrees("x" * 3_000).fingerprint) == 1_200
    assert len(decode([3, 7, "x" * 9_000]).fingerprint) == 1_200
    assert len(explain("ERR " + "x" * 500)) == 200
    for reply in (["x" * 9] * 9, [b"\n" * 900] * 9):
        assert len(decode(reply).reason.removeprefix("answered something that is no vote: ")) == 60

"""`redlock.wire`: commands as bytes, replies as votes."""

from __future__ import annotations

import re
from importlib import resources

import hiredis
import pytest

from redlock.commands import Acquire, Command, Confirm, Extend, Inspect, Release, Repair
from redlock.model import Kind
from redlock.wire import (
    INTERNAL,
    LESSONS,
    RECORD,
    SCRIPTS,
    Codec,
    decode,
    explain,
    fence_key,
    last_word,
    queue_key,
    wake_key,
)

CODEC = Codec(5, "app:", 10_000, 50)
NAMES = ("account 4{2}:ü", "b")
COMMANDS: list[Command] = [
    Acquire(NAMES, "t", 5_000, 77, woken=True, waits_ms=900),
    Confirm(NAMES, "t", 78),
    Extend(NAMES, "t", 5_000),
    Repair(NAMES, "t", 5_000, 78),
    Release(NAMES, "t", 5_000),
    Inspect(("b",)),
]


def words(packed: bytes) -> list[str]:
    """A packed command as a server would read it."""
    reader = hiredis.Reader(encoding="utf-8")
    reader.feed(packed)
    found = reader.gets()
    assert isinstance(found, list)
    assert reader.gets() is False
    return [str(word) for word in found]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_one_evalsha_whose_keys_and_arguments_are_words(command: Command) -> None:
    script = SCRIPTS[type(command)]
    packed = CODEC.encode(command) + (last_word("run-1") if script.admits else b"")
    verb, sha, count, *rest = words(packed)
    assert (verb, sha) == ("EVALSHA", script.sha.decode())
    keys, arguments = rest[: int(count)], rest[int(count) :]
    assert all(f"app:{name}" in keys for name in command.names)
    if isinstance(command, Inspect):
        assert arguments == []
    else:
        assert "t" in arguments
        assert ("run-1" in arguments) == (not isinstance(command, Release))


def test_the_scripts_that_count_as_votes_ask_the_record_first() -> None:
    admitting = {kind for kind, script in SCRIPTS.items() if script.admits}
    assert admitting == {Acquire, Confirm, Extend, Repair}
    for kind in admitting:
        assert CODEC.call(COMMANDS[[type(command) for command in COMMANDS].index(kind)]).keys[0] == RECORD


def test_no_resource_can_collide_with_the_locks_own_keys() -> None:
    for key in (RECORD, fence_key("x"), wake_key("x"), queue_key("x")):
        assert key.startswith(INTERNAL)
        assert ord(key[0]) < 32


def test_clients_that_differ_in_anything_they_must_share_have_other_terms() -> None:
    terms = {Codec(*options).terms for options in ((5, "", 10_000), (3, "", 10_000), (5, "a", 10_000), (5, "", 9_999))}
    assert len(terms) == 4


def test_the_lessons_are_all_scripts() -> None:
    assert LESSONS.count(b"SCRIPT") == len(SCRIPTS)
    assert all(script.source in LESSONS for script in SCRIPTS.values())


@pytest.mark.parametrize(
    "name", ["admit", "acquire", "confirm", "extend", "repair", "release", "inspect", "open", "write", "wake"]
)
def test_a_script_touches_only_what_it_is_given(name: str) -> None:
    text = (resources.files("redlock") / "scripts" / f"{name}.lua").read_text()
    code = re.sub(r"--.*", "", text)
    assert not re.search(r"'(KEYS|SCAN|FLUSHALL|EVAL|CONFIG)'", code)
    assert all(
        key.startswith(("KEYS[", "TIME")) or key == "" for key in re.findall(r"redis\.call\('\w+', ([^,)]*)", code)
    )


def test_replies_as_votes() -> None:
    assert decode([1, 1_700_000_000_000, 77])[:2] == (Kind.GRANTED, 77)
    assert decode([0, 5, 77, b"t:me", 4_000])[:4] == (Kind.DENIED, 77, "t:me", 4_000)
    assert decode([0, 5, 0, b"t", -1]).remaining_ms is None
    quarantined = decode([2, 5, 9_100])
    assert (quarantined.kind, quarantined.remaining_ms) == (Kind.SILENT, 9_100)
    assert "9.1 s" in quarantined.reason
    disagrees = decode([3, 5, b"nodes=3"])
    assert (disagrees.kind, disagrees.terms) == (Kind.SILENT, "nodes=3")


@pytest.mark.parametrize(
    "reply", [None, 1, b"OK", "1", [], [1], [1, 2], [None, 1, 2], [0, 1, 2], [7, 1, 2], [0, 1, 2, b"t"], {}, True]
)
def test_what_is_no_vote_is_never_a_yes(reply: object) -> None:
    """Of redsync: a comparison with the wrong type made every failure a success."""
    vote = decode(reply)
    assert vote.kind is Kind.SILENT
    assert vote.reason


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("NOAUTH Authentication required.", "password"),
        ("WRONGTYPE Operation against a key", "another type"),
        ("OOM command not allowed", "memory"),
        ("READONLY You can't write", "replica"),
        ("MOVED 1 127.0.0.1:1", "cluster"),
        ("ERR something else", "something else"),
    ],
)
def test_an_error_reply_says_what_is_wrong_with_the_node(error: str, said: str) -> None:
    assert said in decode(hiredis.ReplyError(error)).reason
    assert said in explain(error)

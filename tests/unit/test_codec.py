"""`redlock._transport.codec`: commands as bytes. Keys are in `test_wire_format`, and replies in `test_decode`."""

from __future__ import annotations

import hashlib
import re
from importlib import resources

import pytest

from redlock import ConfigurationError
from redlock._core.commands import Acquire, Command, Confirm, Extend, Inspect, Repair
from redlock._core.observed_fences import FENCE_AHEAD_MS
from redlock._core.votes import FENCE_LIMIT, quarantine_ms
from redlock._transport.codec import (
    INTERNAL,
    LOAD_SCRIPTS,
    RECORD,
    SCRIPTS,
    Codec,
    fence_key,
    pack,
    queue_key,
    run_id_argument,
    wake_key,
)
from tests.unit.helpers import each_command, script_call

CODEC = Codec(5, "app:", 10_000, 50)
DAY = str(24 * 3_600 * 1_000)
NAMES = ("account 4{2}:ü", "b")
COMMANDS = each_command(*NAMES)


@pytest.mark.parametrize("kind", [Acquire, Extend, Repair], ids=lambda kind: kind.__name__)
def test_no_command_asks_for_more_than_max_ttl(kind: type[Command]) -> None:
    """A node that lost its memory abstains for no longer than that."""
    command = next(command for command in COMMANDS if isinstance(command, kind))
    assert isinstance(command, Acquire | Extend | Repair)
    CODEC.encode(command._replace(ttl_ms=10_000))
    with pytest.raises(ConfigurationError, match=r"^a lease of 10001 ms is longer than max_ttl, 10000 ms$"):
        CODEC.encode(command._replace(ttl_ms=10_001))


def parsed(packed: bytes) -> list[bytes]:
    """A command by its lengths, byte for byte."""
    head, _, rest = packed.partition(b"\r\n")
    assert head[:1] == b"*"
    found = []
    for _ in range(int(head[1:])):
        size, _, rest = rest.partition(b"\r\n")
        assert size[:1] == b"$"
        word, end, rest = rest[: int(size[1:])], rest[int(size[1:]) :][:2], rest[int(size[1:]) + 2 :]
        assert end == b"\r\n"
        found.append(word)
    assert not rest, "there are more bytes than words"
    return found


@pytest.mark.parametrize(
    "name", ["a b", "{tag}:x", "a:b:c", "ünïcode \N{SNOWMAN}", "'; redis.call('KEYS', '*') --", "%s"]
)
@pytest.mark.parametrize("kind", list(SCRIPTS), ids=lambda kind: kind.__name__)
def test_any_name_and_any_owner_label_is_a_single_word(kind: type[Command], name: str) -> None:
    owner = "x:task\r\n$3\r\nDEL\r\n@höst"
    example = next(command for command in COMMANDS if isinstance(command, kind))
    fields = {"names": (name,)} | ({} if isinstance(example, Inspect) else {"token": owner})
    command = example._replace(**fields)  # type: ignore[arg-type]  # each has these fields
    last = run_id_argument("run-1") if SCRIPTS[kind].admits else b""
    found = parsed(CODEC.encode(command) + last)
    assert f"app:{name}".encode() in found[3 : 3 + int(found[2])]
    if not isinstance(example, Inspect):
        assert owner.encode() in found[3 + int(found[2]) :]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_a_command_has_the_keys_and_arguments_of_its_script(command: Command) -> None:
    call = script_call(CODEC, command)
    code = re.sub(r"--.*", "", call.script.source.decode())
    arguments = {int(number) for number in re.findall(r"ARGV\[(\d+)\]", code)}
    assert max(arguments, default=0) == len(call.arguments)
    step = re.findall(r"for i = (\d), #KEYS(?:, (\d))?", code)
    firsts, steps = {int(first) for first, _ in step}, {int(width or 1) for _, width in step}
    if step:
        assert (len(firsts), len(steps)) == (1, 1), "all loops of a script go over the same keys"
        assert len(call.keys) == firsts.pop() - 1 + len(command.names) * steps.pop()
    else:
        assert len(call.keys) == max(int(number) for number in re.findall(r"KEYS\[(\d+)\]", code))


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (COMMANDS[0], ("t", "5000", "77", DAY, "1", "900")),
        (COMMANDS[0]._replace(woken=False, waits_ms=0), ("t", "5000", "77", DAY, "0", "0")),  # type: ignore[call-arg]
        (COMMANDS[1], ("t", "78", DAY)),
        (COMMANDS[2], ("t", "5000", DAY)),
        (COMMANDS[3], ("t", "5000", "78", DAY)),
        (COMMANDS[4], ("t", "5000", "50")),
        (COMMANDS[5], ()),
    ],
)
def test_each_argument_is_where_its_script_reads_it(command: Command, arguments: tuple[str, ...]) -> None:
    """In the order that the head of each script names."""
    call = script_call(CODEC, command)
    common = (CODEC.fingerprint, str(quarantine_ms(10_000))) if call.script.admits else ()
    assert call.arguments == (*common, *arguments)


def test_without_a_prefix_the_lock_is_at_the_resources_own_name() -> None:
    """So that any other Redlock client and ours exclude each other."""
    assert "b" in script_call(Codec(5, "", 10_000), Inspect(("b",))).keys


@pytest.mark.parametrize("kind", [Acquire, Confirm, Repair], ids=lambda kind: kind.__name__)
def test_a_script_that_writes_a_token_refuses_one_far_ahead(kind: type[Command]) -> None:
    source = SCRIPTS[kind].source.decode()
    assert f"(now + {FENCE_AHEAD_MS}) * 1000" in source
    assert kind is Repair or f"{FENCE_LIMIT - 1})" in source, "a double could not tell two larger ones apart"


@pytest.mark.parametrize("kind", list(SCRIPTS), ids=lambda kind: kind.__name__)
def test_a_script_prints_no_number_in_a_way_that_loses_digits(kind: type[Command]) -> None:
    code = re.sub(r"--.*", "", SCRIPTS[kind].source.decode())
    assert "tostring" not in code
    assert "%d" not in code


def test_the_scripts_that_count_as_votes_ask_the_record_first() -> None:
    assert {kind for kind, script in SCRIPTS.items() if script.admits} == {Acquire, Confirm, Extend, Repair}


def test_no_resource_can_collide_with_the_locks_own_keys() -> None:
    for key in (RECORD, fence_key("x"), wake_key("x"), queue_key("x")):
        assert key.startswith(INTERNAL)
        assert ord(key[0]) < 32


def test_each_shared_setting_changes_the_fingerprint() -> None:
    fingerprint = {
        Codec(*options).fingerprint for options in ((5, "", 10_000), (3, "", 10_000), (5, "a", 10_000), (5, "", 9_999))
    }
    assert len(fingerprint) == 4


def test_the_lessons_are_all_scripts() -> None:
    assert b"".join(pack("SCRIPT", "LOAD", one.source) for one in SCRIPTS.values()) == LOAD_SCRIPTS


@pytest.mark.parametrize("kind", list(SCRIPTS), ids=lambda kind: kind.__name__)
def test_a_script_has_its_parts_and_the_sha_of_their_text(kind: type[Command]) -> None:
    script, name = SCRIPTS[kind], kind.__name__.lower()
    parts = ("shown", "admit", name) if kind in {Acquire, Confirm, Extend, Repair} else ("shown", name)
    folder = resources.files("redlock._transport") / "scripts"
    source = b"".join((folder / f"{part}.lua").read_bytes() for part in parts)
    assert (script.source, script.sha) == (source, hashlib.sha1(source).hexdigest().encode())  # noqa: S324 - the name of a script


@pytest.mark.parametrize(
    "name", ["shown", "admit", "acquire", "confirm", "extend", "repair", "release", "inspect", "open", "write", "wake"]
)
def test_a_script_touches_only_what_it_is_given(name: str) -> None:
    text = (resources.files("redlock._transport") / "scripts" / f"{name}.lua").read_text()
    code = re.sub(r"--.*", "", text)
    assert not re.search(r"'(KEYS|SCAN|FLUSHALL|EVAL|CONFIG)'", code)
    assert all(
        key.startswith(("KEYS[", "TIME")) or key == "" for key in re.findall(r"redis\.call\('\w+', ([^,)]*)", code)
    )

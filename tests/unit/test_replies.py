"""`redlock._transport.reply_reader`: replies arrive in pieces of any size, and too long replies are refused."""

from __future__ import annotations

import pytest

from redlock._escaping import LONGEST_LABEL, bounded_label
from redlock._transport.reply_reader import (
    ADMIN_REPLY_BYTES,
    LOCK_REPLY_BYTES,
    ReplyError,
    ReplyReader,
    UnreadableReply,
)

STREAM = b"*3\r\n:1\r\n:1700000000000\r\n:7\r\n$5\r\na\r\nbc\r\n-NOSCRIPT no\r\n$-1\r\n*2\r\n*0\r\n+OK\r\n"
REPLIES = [[1, 1_700_000_000_000, 7], b"a\r\nbc", "NOSCRIPT no", None, [[], b"OK"]]


admin = False
"""Whether the reader that is tested is for administration."""


@pytest.fixture(autouse=True, params=["lock", "admin"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each test runs with the reader of locks and with that of administration."""
    global admin  # noqa: PLW0603 - the test of one kind at a time
    admin = request.param == "admin"
    return str(request.param)


def read(stream: bytes, size: int) -> list[object]:
    """The replies of a stream that comes in pieces of this size."""
    reader = ReplyReader(admin=admin)
    found: list[object] = []
    for start in range(0, len(stream), size):
        found += reader.read(stream[start : start + size])
    return [str(reply) if isinstance(reply, ReplyError) else reply for reply in found]


def test_the_size_of_the_pieces_changes_nothing() -> None:
    for size in range(1, len(STREAM) + 1):
        assert read(STREAM * 3, size) == REPLIES * 3, size


@pytest.mark.parametrize("before", [b"", b":1\r\n", b"$3\r\nabc\r\n"])
def test_a_list_that_is_too_long_is_refused_at_any_cut(before: bytes) -> None:
    for size in range(1, 16):
        with pytest.raises(UnreadableReply, match="too long"):
            read(before + b"*1000000\r\n", size)


@pytest.mark.parametrize("size", [7, 100, 4_096, 65_536])
def test_a_reply_without_end_is_refused(size: int, kind: str) -> None:
    most, said = (ADMIN_REPLY_BYTES, "1000") if kind == "admin" else (LOCK_REPLY_BYTES, "65")
    with pytest.raises(UnreadableReply, match=f"more than {said} kB"):
        read(b"$9000000\r\n" + b"x" * (2 * most), size)
    with pytest.raises(UnreadableReply, match=f"more than {said} kB"):
        read(b"$9000000\r\n" + b"xxxxx\r\n" * (most // 5), size)


def test_many_short_replies_are_no_long_one() -> None:
    assert len(read(b":1\r\n" * 2 * LOCK_REPLY_BYTES, 1_001)) == 2 * LOCK_REPLY_BYTES


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 200 OK\r\n", b"\x00\x01\x02\r\n", b"$x\r\n"])
def test_what_is_no_reply_is_refused(garbage: bytes) -> None:
    with pytest.raises(UnreadableReply, match="not the Redis protocol"):
        read(STREAM + garbage, 1_000)


@pytest.mark.parametrize("size", [1, 2, 5, 1_000])
@pytest.mark.parametrize(
    "data",
    [
        b"*500000000\r\n",
        b"*4294967295\r\n",
        b"%1000000000\r\n",
        b"*2\r\n*500000000\r\n",
        b"+OK\r\n~500000000\r\n",
        b"$1\r\naXX*500000000\r\n",
        b"*2\r\n$1\r\naXX*99999999\r\n",
    ],
)
def test_a_list_that_is_too_long_is_refused_at_its_header(data: bytes, size: int) -> None:
    with pytest.raises(UnreadableReply):
        read(data, size)


@pytest.mark.parametrize("text", [b"a|10", b"x*1234 since", b"~12", b"%99\r\n", b"job>7"])
def test_a_text_that_looks_like_a_list_is_read(text: bytes) -> None:
    assert read(b"$%d\r\n%s\r\n" % (len(text), text), 1_000) == [text]


@pytest.mark.parametrize("size", [1, 3, 8, 1_000])
@pytest.mark.parametrize("name", [b"tenant|12345", b"a*123456789", b"job>1234567", b"\r\n*4294967295"])
def test_the_name_of_a_resource_may_look_like_a_list(name: bytes, size: int) -> None:
    reply = b"*2\r\n$%d\r\n%s\r\n:1\r\n" % (len(name), name)
    assert read(reply * 2, size) == [[name, 1], [name, 1]]


@pytest.mark.parametrize("label", ["job|12345", "x" * 300 + "*1234567", "vm/1/Thread-1"])
def test_an_owner_label_may_look_like_a_list(label: str) -> None:
    token = f"{'0' * 32}:{bounded_label(label)}".encode()
    assert len(token) <= 33 + LONGEST_LABEL
    assert bounded_label(bounded_label(label)) == bounded_label(label)
    assert read(b"$%d\r\n%s\r\n" % (len(token), token), 1_000) == [token]


def test_a_reply_has_a_limit(kind: str) -> None:
    most = ADMIN_REPLY_BYTES if kind == "admin" else LOCK_REPLY_BYTES
    within, beyond = most - 1_000, most + 10_000
    assert read(b"$%d\r\n%s\r\n" % (within, b"x" * within), 4_096)
    with pytest.raises(UnreadableReply, match="more than"):
        read(b"$%d\r\n%s\r\n" % (beyond, b"x" * beyond), 4_096)


@pytest.mark.parametrize(
    "data", [b"%1\r\n*0\r\n+x\r\n", b"$-5\r\n", b"HTTP/1.1 400\r\n", b"\xff\x00", b"!3\r\nERR\r\n"]
)
def test_whatever_the_parser_raises_is_one_error(data: bytes) -> None:
    with pytest.raises(UnreadableReply, match="not the Redis protocol"):
        read(data, 1_000)


def test_a_deep_list_is_refused() -> None:
    with pytest.raises(UnreadableReply, match="not the Redis protocol"):
        read(b"*1\r\n" * 5_000 + b":1\r\n", 1_000)

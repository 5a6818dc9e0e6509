"""`redlock._transport.reply_reader`: replies arrive in pieces of any size, and too long replies are refused."""

from __future__ import annotations

import pytest

from redlock import _compat, _resp
from redlock._core.votes import Kind
from redlock._transport import codec, reply_reader
from redlock._transport.reply_reader import ADMIN_REPLY_BYTES, LOCK_REPLY_BYTES, ReplyReader, UnreadableReply

STREAM = b"*3\r\n:1\r\n:1700000000000\r\n:7\r\n$5\r\na\r\nbc\r\n-NOSCRIPT no\r\n$-1\r\n*2\r\n*0\r\n+OK\r\n"
REPLIES = [[1, 1_700_000_000_000, 7], b"a\r\nbc", "NOSCRIPT no", None, [[], b"OK"]]


@pytest.fixture(autouse=True, params=["hiredis", "plain"])
def _parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test runs with hiredis and with the parser for an installation without hiredis."""
    if request.param == "hiredis":
        if not _compat.USES_HIREDIS:
            pytest.skip("no hiredis")
        return
    monkeypatch.setattr(reply_reader, "Reader", _resp.Reader)
    monkeypatch.setattr(reply_reader, "_UNREADABLE", (_resp.HiredisError,))


def read(stream: bytes, size: int, *, admin: bool = False) -> list[object]:
    """The replies of a stream that comes in pieces of this size."""
    reader = ReplyReader(admin=admin)
    found: list[object] = []
    for start in range(0, len(stream), size):
        found += reader.read(stream[start : start + size])
    return [str(reply) if isinstance(reply, (_compat.ReplyError, _resp.ReplyError)) else reply for reply in found]


@pytest.mark.parametrize("size", range(1, len(STREAM) + 1))
def test_the_size_of_the_pieces_changes_nothing(size: int) -> None:
    assert read(STREAM * 3, size) == REPLIES * 3


@pytest.mark.parametrize("size", range(1, 16))
@pytest.mark.parametrize("before", [b"", b":1\r\n", b"$3\r\nabc\r\n"])
def test_a_list_that_is_too_long_is_refused_at_any_cut(size: int, before: bytes) -> None:
    with pytest.raises(UnreadableReply, match="too long"):
        read(before + b"*1000000\r\n", size)


@pytest.mark.parametrize("size", [7, 100, 4_096, 65_536])
def test_a_reply_without_end_is_refused(size: int) -> None:
    with pytest.raises(UnreadableReply, match="more than 65 kB"):
        read(b"$1000000\r\n" + b"x" * (2 * LOCK_REPLY_BYTES), size)
    with pytest.raises(UnreadableReply, match="more than 65 kB"):
        read(b"$1000000\r\n" + b"xxxxx\r\n" * LOCK_REPLY_BYTES, size)


def test_many_short_replies_are_no_long_one() -> None:
    assert len(read(b":1\r\n" * 2 * LOCK_REPLY_BYTES, 1_001)) == 2 * LOCK_REPLY_BYTES


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 200 OK\r\n", b"\x00\x01\x02\r\n", b"$x\r\n"])
def test_what_is_no_reply_is_refused(garbage: bytes) -> None:
    with pytest.raises(UnreadableReply, match="not the Redis protocol"):
        read(STREAM + garbage, 1_000)


@pytest.mark.parametrize("size", [1, 2, 5, 1_000])
@pytest.mark.parametrize("admin", [False, True])
@pytest.mark.parametrize(
    "data",
    [
        b"*500000000\r\n",
        b"*4294967295\r\n",
        b"%1000000000\r\n",
        b"*2\r\n*500000000\r\n",
        b"+OK\r\n~500000000\r\n",
        b"$1\r\naXX*500000000\r\n",
    ],
)
def test_a_list_that_is_too_long_is_refused_at_its_header(data: bytes, size: int, *, admin: bool) -> None:
    with pytest.raises(UnreadableReply):
        read(data, size, admin=admin)


@pytest.mark.parametrize("text", [b"a|10", b"x*1234 since", b"~12", b"%99\r\n", b"job>7"])
def test_a_text_that_looks_like_a_list_is_read(text: bytes) -> None:
    assert read(b"$%d\r\n%s\r\n" % (len(text), text), 1_000) == [text]


@pytest.mark.parametrize("text", [b"report|20261128", b"x*123456"])
def test_names_of_keys_may_end_in_a_date(text: bytes) -> None:
    assert read(b"$%d\r\n%s\r\n" % (len(text), text), 1_000, admin=True) == [text]


@pytest.mark.parametrize(("admin", "most"), [(False, LOCK_REPLY_BYTES), (True, ADMIN_REPLY_BYTES)])
def test_a_reply_has_a_limit(most: int, *, admin: bool) -> None:
    within, beyond = most - 1_000, most + 10_000
    assert read(b"$%d\r\n%s\r\n" % (within, b"x" * within), 4_096, admin=admin)
    with pytest.raises(UnreadableReply, match="more than"):
        read(b"$%d\r\n%s\r\n" % (beyond, b"x" * beyond), 4_096, admin=admin)


@pytest.mark.parametrize(
    "data", [b"%1\r\n*0\r\n+x\r\n", b"$-5\r\n", b"HTTP/1.1 400\r\n", b"\xff\x00", b"!3\r\nERR\r\n"]
)
def test_whatever_the_parser_raises_is_one_error(data: bytes) -> None:
    with pytest.raises(UnreadableReply, match="not the Redis protocol"):
        read(data, 1_000)


def test_a_deep_list_is_refused_or_no_vote() -> None:
    """hiredis refuses a deep list from version 3.5 on."""
    try:
        (deep,) = read(b"*1\r\n" * 5_000 + b":1\r\n", 1_000)
    except UnreadableReply:
        return
    assert codec.decode(deep).kind is Kind.SILENT

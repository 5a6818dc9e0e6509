"""Commands and replies are those of hiredis, the parser of Redis itself."""

from __future__ import annotations

import hiredis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redlock._transport.codec import pack
from redlock._transport.reply_reader import ReplyReader, UnreadableReply

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Hypothesis fails a test if an example is slow, and on a busy machine each can be."""
LINE = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20).map(str.encode)
SCALAR = st.one_of(
    LINE.map(lambda line: b"+%s\r\n" % line),
    LINE.map(lambda line: b"-%s\r\n" % line),
    st.integers(-(2**63), 2**63 - 1).map(lambda number: b":%d\r\n" % number),
    st.binary(max_size=30).map(lambda text: b"$%d\r\n%s\r\n" % (len(text), text)),
    st.sampled_from([b"$-1\r\n", b"*-1\r\n", b"*0\r\n"]),
)
REPLY = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=4).map(lambda part: b"*%d\r\n%s" % (len(part), b"".join(part))),
    max_leaves=12,
)


def plain(reply: object) -> object:
    """A reply that can be compared: each library has its own class for error replies."""
    if isinstance(reply, list):
        return [plain(element) for element in reply]
    return ("error", str(reply)) if isinstance(reply, Exception) else (type(reply), reply)


def pieces(stream: bytes, size: int) -> list[bytes]:
    return [stream[at : at + size] for at in range(0, len(stream), size)]


def parse_by_hiredis(stream: bytes, size: int) -> list[object]:
    more = object()
    parser = hiredis.Reader(notEnoughData=more)
    found: list[object] = []
    for piece in pieces(stream, size):
        parser.feed(piece)
        found += map(plain, iter(parser.gets, more))
    return found


@UNHURRIED
@given(st.lists(REPLY, max_size=5).map(b"".join), st.integers(1, 40))
def test_the_parser_reads_as_hiredis_does(stream: bytes, size: int) -> None:
    reader = ReplyReader()
    found = [plain(reply) for piece in pieces(stream, size) for reply in reader.read(piece)]
    assert found == parse_by_hiredis(stream, size)


NO_NUMBERS = ["", "1_0", " 1", "1 ", "+7", "007", "-0", "9223372036854775808", "-9223372036854775809"]


@pytest.mark.parametrize("number", NO_NUMBERS)
def test_a_bad_number_is_refused(number: str) -> None:
    with pytest.raises(UnreadableReply):
        ReplyReader().read(b":%s\r\n" % number.encode())


@pytest.mark.parametrize("length", ["", "1_0", "+1", "01", "-2", "x", "99999999999999999999"])
@pytest.mark.parametrize("kind", [b"$", b"*"])
def test_a_bad_length_is_refused(kind: bytes, length: str) -> None:
    with pytest.raises(UnreadableReply):
        ReplyReader().read(kind + length.encode() + b"\r\n")


@UNHURRIED
@given(st.lists(st.one_of(st.text(st.characters(codec="utf-8")), st.binary()), min_size=1, max_size=6))
def test_commands_have_the_same_bytes(words: list[str | bytes]) -> None:
    assert pack(*words) == hiredis.pack_command(tuple(words))  # type: ignore[arg-type]  # its stub means one word


class CountedBytes(bytearray):
    searched = 0

    def find(self, sub: object, start: object = 0, end: object = None) -> int:
        assert isinstance(sub, bytes)
        assert isinstance(start, int)
        assert end is None
        self.searched += len(self) - start
        return super().find(sub, start)


def test_a_line_in_pieces_is_searched_once() -> None:
    reader = ReplyReader()
    reader._bytes = counted = CountedBytes()
    line = b"+" + b"x" * 1_000
    for piece in pieces(line + b"\r", 1):
        assert reader.read(piece) == []
    assert counted.searched <= 2 * len(line + b"\r")
    assert reader.read(b"\n:1\r\n") == [line[1:], 1]

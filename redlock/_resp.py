"""The Redis protocol in plain Python, for an installation without hiredis.

The names and the behaviour are those of hiredis, as far as this package uses them. With hiredis this parser reads
replies with names of resources, see `StrictReader`.

Invariants:
1. The reader accepts the reply types of protocol 2. Any other byte sequence raises `ProtocolError`.
2. A reply that arrives in pieces is parsed once: no piece is parsed or searched again with the next piece.
3. The memory grows with the bytes that have arrived, and not with the lengths that they announce.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_NUMBER = re.compile(rb"-?[1-9][0-9]{0,18}|0")
_LENGTH = re.compile(rb"-1|[1-9][0-9]{0,9}|0")
_MOST_NUMBER = 2**63
_DEEPEST = 9
_MOST_KNOWN = 256
"""The most lengths that are remembered."""
_END = b"\r\n"


class HiredisError(Exception):
    """The base of the errors of a parser."""


class ProtocolError(HiredisError):
    """The bytes are not the Redis protocol."""


class TooLongError(ProtocolError):
    """A list has more elements than the reader accepts."""


class ReplyError(HiredisError):
    """An error reply of the server: a value that the reader returns, not an exception that the reader raises."""


class _Header:
    """The header of a list that has elements."""

    __slots__ = ("length",)

    def __init__(self, length: int) -> None:
        self.length = length


class Reader:
    """Parses replies that arrive in pieces.

    Args:
        notEnoughData: The result of `gets` while no reply is complete.
        replyError: Makes the value of an error reply.
        most: The most elements of a list.
    """

    def __init__(
        self,
        *,
        notEnoughData: object = False,  # noqa: N803 - the name in hiredis
        replyError: Callable[[str], object] = ReplyError,  # noqa: N803 - as above
        most: int = 2**32 - 1,
    ) -> None:
        self._more = notEnoughData
        self._error, self._most = replyError, most
        self._bytes = bytearray()
        self._at = 0
        self._searched = 0
        """How much of the line that is not complete has no end."""
        self._text_length: int | None = None
        self._open: list[tuple[list[object], int]] = []
        """The lists that are not complete, the outermost first, with their lengths."""

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        del self._bytes[: self._at]
        self._at = 0
        self._bytes += data

    def gets(self) -> object:
        """The next complete reply, with texts as bytes, or `notEnoughData`.

        Raises:
            ProtocolError: The bytes are not the Redis protocol.
        """
        while True:
            value = self._text() if self._text_length is not None else self._element()
            if value is _MORE:
                return self._more
            if isinstance(value, _Header):
                self._open_list(value.length)
                continue
            while self._open:
                elements, length = self._open[-1]
                elements.append(value)
                if len(elements) < length:
                    break
                value = elements
                self._open.pop()
            else:
                return value

    def _open_list(self, length: int) -> None:
        if length > self._most:
            raise TooLongError("a list is too long")
        if len(self._open) >= _DEEPEST:
            raise ProtocolError("lists inside lists are too deep")
        self._open.append(([], length))

    def _element(self) -> object:
        """A value without elements, the header of a list, or `_MORE`."""
        at, data = self._at, self._bytes
        end = data.find(_END, max(at, self._searched))
        self._searched = 0
        if end < 0:
            # A line that can't begin a reply is refused before its end.
            if at < len(data) and data[at] not in _KINDS:
                raise ProtocolError("no reply begins with this byte")
            # `feed` drops the bytes before this line.
            self._searched = max(0, len(data) - at - 1)
            return _MORE
        kind, line = data[at], bytes(data[at + 1 : end])
        self._at = end + len(_END)
        if kind == _ERROR:
            return self._error(line.decode(errors="replace"))
        simple = _SIMPLE.get(kind)
        if simple is not None:
            return simple(line)
        if kind not in _KINDS:
            raise ProtocolError("no reply begins with this byte")
        length = _length(line)
        if length < 0:
            return None
        if kind == _LIST:
            return _Header(length) if length else []
        self._text_length = length
        return self._text()

    def _text(self) -> object:
        assert self._text_length is not None
        end = self._at + self._text_length
        if len(self._bytes) < end + len(_END):
            return _MORE
        if not self._bytes.startswith(_END, end):
            raise ProtocolError("a text has another length than its header says")
        text = bytes(self._bytes[self._at : end])
        self._at, self._text_length = end + len(_END), None
        return text


_MORE = object()
_KINDS = b"+-:$*"
"""The bytes with which a reply begins."""
_STATUS, _ERROR, _INTEGER, _, _LIST = _KINDS


def _number(line: bytes) -> int:
    number = int(line) if _NUMBER.fullmatch(line) else _MOST_NUMBER
    if not -_MOST_NUMBER <= number < _MOST_NUMBER:
        raise ProtocolError("not a whole number of 64 bits")
    return number


@functools.lru_cache(_MOST_KNOWN)
def _length(line: bytes) -> int:
    if not _LENGTH.fullmatch(line):
        raise ProtocolError("not a length")
    return int(line)


_SIMPLE: dict[int, Callable[[bytes], object]] = {
    _STATUS: bytes,
    _INTEGER: _number,
}


def pack_command(words: Iterable[str | bytes]) -> bytes:
    """A command in the Redis protocol."""
    encoded = [word.encode() if isinstance(word, str) else word for word in words]
    return b"*%d\r\n%s" % (len(encoded), b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded))

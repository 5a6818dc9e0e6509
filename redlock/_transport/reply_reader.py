"""Parser for replies, safe against any bytes from a node.

Invariants:
1. The reader accepts the reply types of protocol 2. Any other bytes raise `UnreadableReply`; after that the connection
   can't be used.
2. A reply that arrives in pieces is parsed once: no piece is parsed or searched again with the next piece.
3. The memory grows with the bytes that have arrived, and not with the lengths that they announce. A reply has a limited
   number of bytes, and each of its lists a limited number of elements.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LOCK_REPLY_BYTES = 65_536
"""The most that a reply on a connection for rounds or for waiting may have."""
ADMIN_REPLY_BYTES = 1_000_000
"""The most that a reply to a command of `status`, `doctor` or Flower's page may have."""

_LOCK_ELEMENTS, _ADMIN_ELEMENTS = 999, 99_999
_DEEPEST = 9
_NUMBER = re.compile(rb"-?[1-9][0-9]{0,18}|0")
_LENGTH = re.compile(rb"-1|[1-9][0-9]{0,9}|0")
_MOST_NUMBER = 2**63
_MOST_KNOWN = 256
"""The most lengths that are remembered."""
_END = b"\r\n"
MORE = object()
"""In place of a reply that is not complete."""
_OPENED = object()
"""In place of a list that has elements; they follow."""


class UnreadableReply(Exception):
    """The node sent bytes that are not a valid reply; the message gives the reason."""


class LongReply(UnreadableReply):
    """A reply has more bytes than the reader accepts. Another client may have stored a long value on the node."""


class ReplyError(Exception):
    """An error reply of the server: a value that the reader returns, not an exception that the reader raises."""


class ReplyReader:
    """Parses replies that arrive in pieces.

    Args:
        admin: Whether the connection is for administration, where lists and texts can be long.
    """

    def __init__(self, *, admin: bool = False) -> None:
        self._most_bytes = ADMIN_REPLY_BYTES if admin else LOCK_REPLY_BYTES
        self._most_elements = _ADMIN_ELEMENTS if admin else _LOCK_ELEMENTS
        self._size = 0
        """The number of bytes since the last complete reply."""
        self._bytes = bytearray()
        self._at = 0
        self._searched = 0
        """How much of the line that is not complete has no end."""
        self._text_length: int | None = None
        self._open: list[tuple[list[object], int]] = []
        """The lists that are not complete, the outermost first, with their lengths."""

    def read(self, data: bytes) -> list[object]:
        """The replies that these bytes complete, with texts as bytes.

        Raises:
            UnreadableReply: The bytes are not the Redis protocol, or a reply is too long.
        """
        self._bytes += data
        replies = list(iter(self._next, MORE))
        self._drop_parsed(len(data), is_complete=bool(replies))
        return replies

    def read_first(self, data: bytes) -> tuple[object, bytes]:
        """The first reply that these bytes complete, or `MORE`, and the bytes behind that reply; see `read`."""
        self._bytes += data
        reply, rest = self._next(), b""
        if reply is not MORE:
            rest = bytes(self._bytes[self._at :])
            self._at = len(self._bytes)
        self._drop_parsed(len(data), is_complete=reply is not MORE)
        return reply, rest

    def _drop_parsed(self, arrived: int, *, is_complete: bool) -> None:
        del self._bytes[: self._at]
        self._at = 0
        self._size = 0 if is_complete else self._size + arrived
        if self._size > self._most_bytes:
            raise LongReply(f"answered with more than {self._most_bytes // 1000} kB")

    def _next(self) -> object:
        """The next reply, or `MORE`."""
        while True:
            value = self._text() if self._text_length is not None else self._element()
            if value is MORE:
                return MORE
            if value is _OPENED:
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

    def _open_list(self, length: int) -> object:
        if length > self._most_elements:
            raise UnreadableReply("answered with a list that is too long")
        if len(self._open) >= _DEEPEST:
            raise _no_protocol()
        self._open.append(([], length))
        return _OPENED

    def _element(self) -> object:
        """A value without elements, `_OPENED` after the header of a list, or `MORE`."""
        at, data = self._at, self._bytes
        end = data.find(_END, max(at, self._searched))
        self._searched = 0
        # A line that can't begin a reply is refused before its end.
        if at < len(data) and data[at] not in _KINDS:
            raise _no_protocol()
        if end < 0:
            # `_drop_parsed` drops the bytes before this line.
            self._searched = max(0, len(data) - at - 1)
            return MORE
        kind, line = data[at], bytes(data[at + 1 : end])
        self._at = end + len(_END)
        simple = _SIMPLE.get(kind)
        if simple is not None:
            return simple(line)
        length = _length(line)
        if length < 0:
            return None
        if kind == _LIST:
            return self._open_list(length) if length else []
        self._text_length = length
        return self._text()

    def _text(self) -> object:
        assert self._text_length is not None
        end = self._at + self._text_length
        if len(self._bytes) < end + len(_END):
            return MORE
        if not self._bytes.startswith(_END, end):
            # The text has another length than its header says.
            raise _no_protocol()
        text = bytes(self._bytes[self._at : end])
        self._at, self._text_length = end + len(_END), None
        return text


_KINDS = b"+-:$*"
"""The bytes with which a reply begins."""
_STATUS, _ERROR, _INTEGER, _, _LIST = _KINDS


def _no_protocol() -> UnreadableReply:
    return UnreadableReply("answered something that is not the Redis protocol")


def _number(line: bytes) -> int:
    number = int(line) if _NUMBER.fullmatch(line) else _MOST_NUMBER
    if not -_MOST_NUMBER <= number < _MOST_NUMBER:
        raise _no_protocol()
    return number


def _error(line: bytes) -> ReplyError:
    return ReplyError(line.decode(errors="replace"))


@functools.lru_cache(_MOST_KNOWN)
def _length(line: bytes) -> int:
    if not _LENGTH.fullmatch(line):
        raise _no_protocol()
    return int(line)


_SIMPLE: dict[int, Callable[[bytes], object]] = {_STATUS: bytes, _ERROR: _error, _INTEGER: _number}

"""Parsers for replies, safe against any bytes from a node.

Invariants:
1. A reply has a limited number of bytes, and each of its lists a limited number of elements.
2. Every exception of the parser becomes `UnreadableReply`; after that the connection can't be used.
3. No name of a resource is taken for the header of a list. hiredis accepts any two bytes as the end of a text, so a
   reply with names is for `StrictReader`.
"""

from __future__ import annotations

import re

from redlock import _resp
from redlock._compat import HiredisError, Reader, ReplyError

LOCK_REPLY_BYTES = 65_536
"""The most that a reply on a connection for rounds or for waiting may have."""
ADMIN_REPLY_BYTES = 1_000_000
"""The most that a reply to a command of `status`, `doctor` or Flower's page may have."""

_LOCK_ELEMENTS, _ADMIN_ELEMENTS = 999, 99_999
_LONGEST_HEADER = 24
_LONG_LIST = re.compile(rb"[*%~>|][0-9]{4,}\r\n")
"""The header of a list that is too long, also in the middle of a line. A text that ends like this is refused too."""
_UNREADABLE = (HiredisError, _resp.HiredisError, MemoryError, OverflowError, RecursionError, TypeError, ValueError)
"""Not all exceptions: a signal handler may raise an exception here that is meant for the caller."""
_MORE = object()
_TOO_LONG = "answered with a list that is too long"
_NO_PROTOCOL = "answered something that is not the Redis protocol"


class UnreadableReply(Exception):
    """The node sent bytes that are not a valid reply; the message gives the reason."""


class LongReply(UnreadableReply):
    """A reply has more bytes than the reader accepts. Another client may have stored a long value on the node."""


class StrictReader:
    """Parses bytes that arrive in pieces, in plain Python: for every connection but those of rounds.

    Args:
        admin: Whether the connection is for administration, where lists and texts can be long.
    """

    def __init__(self, *, admin: bool = False) -> None:
        self._most, elements = (ADMIN_REPLY_BYTES, _ADMIN_ELEMENTS) if admin else (LOCK_REPLY_BYTES, _LOCK_ELEMENTS)
        self._reader = _resp.Reader(notEnoughData=_MORE, replyError=ReplyError, most=elements)
        self._size = 0

    def read(self, data: bytes) -> list[object]:
        """The replies that these bytes complete.

        Raises:
            UnreadableReply: The bytes are not the Redis protocol, or a reply is too long.
        """
        try:
            self._reader.feed(data)
            replies = list(iter(self._reader.gets, _MORE))
        except _resp.TooLongError:
            raise UnreadableReply(_TOO_LONG) from None
        except _resp.ProtocolError:
            raise UnreadableReply(_NO_PROTOCOL) from None
        self._size = 0 if replies else self._size + len(data)
        if self._size > self._most:
            raise _too_much(self._most)
        return replies


def _too_much(most: int) -> LongReply:
    return LongReply(f"answered with more than {most // 1000} kB")


class ReplyReader:
    """Parses bytes that arrive in pieces, by hiredis if it is installed: for the connections of rounds."""

    def __init__(self) -> None:
        reader = Reader(notEnoughData=_MORE)
        self._feed, self._gets = reader.feed, reader.gets
        self._size = 0
        self._end = b""
        self._is_begun = False
        """Whether the last piece ended inside a reply, or may have, as far as headers are concerned."""
        self.is_between = True
        """Whether the next byte surely begins a reply: False for good once a piece has ended inside a reply."""

    def read(self, data: bytes) -> list[object]:
        """The replies that these bytes complete.

        Raises:
            UnreadableReply: The bytes are not the Redis protocol, or a reply is too long.
        """
        seen = self._end + data if self._is_begun else data
        # hiredis allocates the whole list as soon as its length arrives, however large.
        if _LONG_LIST.search(seen):
            raise UnreadableReply(_TOO_LONG)
        try:
            self._feed(data)
            replies = list(iter(self._gets, _MORE))
        except _UNREADABLE:
            raise UnreadableReply(_NO_PROTOCOL) from None
        self.is_between = self.is_between and _is_whole(data, len(replies))
        # Nearly every piece ends with a reply: then nothing has to be remembered.
        if self._is_begun or not replies or not data.endswith(b"\r\n"):
            self._remember(seen, 0 if replies else self._size + len(data))
        return replies

    def _remember(self, seen: bytes, size: int) -> None:
        # From all bytes so far, not only this piece: a header can arrive byte by byte.
        self._end, self._size = b"" if seen.endswith(b"\r\n") else seen[-_LONGEST_HEADER:], size
        self._is_begun = bool(self._end or self._size)
        if self._size > LOCK_REPLY_BYTES:
            raise _too_much(LOCK_REPLY_BYTES)


def _is_whole(data: bytes, count: int) -> bool:
    """Whether these bytes are so many replies and no more: only then is a number behind them a reply of its own."""
    probe = Reader(notEnoughData=_MORE)
    try:
        probe.feed(data + b":0\r\n")
        replies = list(iter(probe.gets, _MORE))
    except _UNREADABLE:
        return False
    return len(replies) == count + 1 and type(replies[-1]) is int

"""Parser for replies, safe against any bytes from a node.

Invariants:
1. A reply has a limited number of bytes, and each of its lists a limited number of elements.
2. Every exception of the parser becomes `UnreadableReply`; after that the connection can't be used.
"""

from __future__ import annotations

import re

from redlock._compat import HiredisError, Reader

LOCK_REPLY_BYTES = 65_536
"""The most that a reply on a connection for rounds or for waiting may have."""
ADMIN_REPLY_BYTES = 1_000_000
"""The most that a reply to a command of `status`, `doctor` or Flower's page may have."""

_LONGEST_HEADER = 24
_LONG_LOCK_LIST = re.compile(rb"[*%~>|][0-9]{4,}\r\n")
_LONG_ADMIN_LIST = re.compile(rb"(?:\A|\n)[*%~>|][0-9]{6,}\r\n|[*%~>|][0-9]{9,10}\r\n")
"""The header of a list that is too long, also in the middle of a line: hiredis accepts any two bytes as the end of a
text. A text that ends like such a header is refused too. Key names can end like that; the limits for them are wider."""
_UNREADABLE = (HiredisError, MemoryError, OverflowError, RecursionError, TypeError, ValueError)
"""Not all exceptions: a signal handler may raise an exception here that is meant for the caller."""
_MORE = object()


class UnreadableReply(Exception):
    """The node sent bytes that are not a valid reply; the message gives the reason."""


class ReplyReader:
    """Parses bytes that arrive in pieces.

    Args:
        admin: Whether the connection is for administration, where lists and texts can be long.
    """

    def __init__(self, *, admin: bool = False) -> None:
        self._most = ADMIN_REPLY_BYTES if admin else LOCK_REPLY_BYTES
        self._long_list = (_LONG_ADMIN_LIST if admin else _LONG_LOCK_LIST).search
        reader = Reader(notEnoughData=_MORE)
        self._feed, self._gets = reader.feed, reader.gets
        self._size = 0
        self._end = b""
        self._is_begun = False
        """Whether the last piece ended inside a reply, or may have."""

    def read(self, data: bytes) -> list[object]:
        """The replies that these bytes complete.

        Raises:
            UnreadableReply: The bytes are not the Redis protocol, or a reply is too long.
        """
        seen = self._end + data if self._is_begun else data
        # hiredis allocates the whole list as soon as its length arrives, however large.
        if self._long_list(seen):
            raise UnreadableReply("answered with a list that is too long")
        try:
            self._feed(data)
            replies = list(iter(self._gets, _MORE))
        except _UNREADABLE:
            raise UnreadableReply("answered something that is not the Redis protocol") from None
        # Nearly every piece ends with a reply: then nothing has to be remembered.
        if self._is_begun or not replies or not data.endswith(b"\r\n"):
            self._remember(seen, 0 if replies else self._size + len(data))
        return replies

    def _remember(self, seen: bytes, size: int) -> None:
        # From all bytes so far, not only this piece: a header can arrive byte by byte.
        self._end, self._size = b"" if seen.endswith(b"\r\n") else seen[-_LONGEST_HEADER:], size
        self._is_begun = bool(self._end or self._size)
        if self._size > self._most:
            raise UnreadableReply(f"answered with more than {self._most // 1000} kB")

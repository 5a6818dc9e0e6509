"""The errors of sockets, and how an exception of the application is told from them.

Invariants: no socket in use has a timeout, so each error of a node has a number. An `OSError` without a number comes
from a signal handler of the application, such as the `TimeoutError` of a time limit, and reaches the caller.
"""

from __future__ import annotations

import ssl

NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""The socket has no data, or no room."""


class ConnectionFailed(Exception):
    """A connection can't be used any more; the message has the reason. No `OSError`: an application may raise it."""


class NoReply(ConnectionFailed):
    """The node did not answer by the deadline."""


def reason_of(error: OSError) -> str:
    """The reason of a failed read or write, in lower case. Raises an error again that comes from the application."""
    try:
        if error.errno is None:
            raise error
        return error.strerror.lower() if error.strerror else str(error)
    finally:
        # The name would keep the error and its frames alive until a garbage collection.
        del error

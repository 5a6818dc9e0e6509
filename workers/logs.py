"""All events in `logger.log`, one line each, and on the console; many processes write and rotate it together.

Rules: passwords in URLs are masked in every line, whoever wrote it; rotation is concurrent-log-handler's,
which holds a lock between processes while it writes. A forked child opens files of its own: a lock on a file
that was opened before the fork would be shared with the parent, and hold nobody off.
"""

from __future__ import annotations

import logging
import re
import signal
import tempfile
from pathlib import Path

from concurrent_log_handler import ConcurrentRotatingFileHandler

from redlock.log import LineFormatter

_KEPT = 5
_SECRET = re.compile(r"""(\w+://[^\s:/@'"]*:)\S+@|([?&]password=)[^\s&'"]+""")
_FORMAT = "%(asctime)s %(levelname)-7s %(processName)s[%(process)d] %(name)s: %(message)s"


class MaskingFormatter(LineFormatter):
    """A formatter whose lines never hold the password of a URL, and are one line each."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text, masked; a traceback keeps its line breaks."""
        return _SECRET.sub(_masked, super().format(record))


class WholeLines(ConcurrentRotatingFileHandler):
    """A handler that no soft time limit strikes.

    Celery raises it by SIGUSR1 wherever the task is, and inside the handler's own `except Exception` it would vanish:
    the task would run on to its hard limit. So it waits until the line is written.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        try:
            super().emit(record)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _masked(found: re.Match[str]) -> str:
    return f"{found[1]}***@" if found[1] else f"{found[2]}***"


def configure(log_file: str, log_bytes: int, *, console: bool = True) -> None:
    """Send everything at INFO to file and console, and the lock's DEBUG events to the file too.

    Call it again after a fork: it replaces what is there.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    path = Path(log_file).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    to_file = WholeLines(
        str(path),
        maxBytes=log_bytes,
        backupCount=_KEPT,
        encoding="utf-8",
        lock_file_directory=tempfile.gettempdir(),
    )
    handlers: list[logging.Handler] = [to_file]
    if console:
        to_console = logging.StreamHandler()
        to_console.setLevel(logging.INFO)
        handlers.append(to_console)
    for handler in handlers:
        handler.setFormatter(MaskingFormatter(_FORMAT))
        root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.getLogger("redlock").setLevel(logging.DEBUG)

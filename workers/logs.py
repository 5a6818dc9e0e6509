"""All events in `logger.log`, one line each, and on the console; many processes write and rotate it together.

Rules: passwords in URLs are masked in every line, whoever wrote it. Rotation is concurrent-log-handler's, which holds
a lock between processes while it writes; the lock lies in a folder beside the log. A forked child opens files of its
own: a lock on a file that was opened before the fork would be shared with the parent, and hold nobody off.
"""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from concurrent_log_handler import ConcurrentRotatingFileHandler

from redlock import _files
from redlock._log import LineFormatter
from redlock._masking import mask

if TYPE_CHECKING:
    from io import TextIOWrapper

_KEPT = 5
_FORMAT = "%(asctime)s %(levelname)-7s %(processName)s[%(process)d] %(name)s: %(message)s"


class MaskingFormatter(LineFormatter):
    """A formatter whose lines never hold the password of a URL, and are one line each."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text, masked; a traceback keeps its line breaks."""
        return mask(super().format(record))


class WholeLines(ConcurrentRotatingFileHandler):
    """A handler that no soft time limit strikes.

    Celery raises it by SIGUSR1 wherever the task is, and inside the handler's own `except Exception` it would vanish:
    the task would run on to its hard limit. So it waits until the line is written.
    """

    def do_open(self, mode: str | None = None) -> TextIOWrapper:  # noqa: ARG002 - with old files kept it is always "a"
        """Open the log, also after a rotation, and never a file of another user."""
        return os.fdopen(_files.open_to_append(self.baseFilename), "a", encoding=self.encoding, newline=self.newline)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        try:
            super().emit(record)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def prepare(path: Path) -> Path:
    """Create a log and the folder of its rotation lock, and return that folder.

    No other user can enter that folder. A lock file that another user can open can be held by that user, and each
    worker would wait for the lock at its first line.

    Raises:
        OSError: One of them can't be created, or belongs to another user.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(_files.open_to_append(path))
    locks = path.with_name(f".{path.name}.lock")
    _files.private_folder(locks)
    return locks


def configure(log_file: str, log_bytes: int, *, console: bool = True) -> None:
    """Send everything at INFO to file and console, and the lock's DEBUG events to the file too.

    Call it again after a fork: it replaces what is there.

    Raises:
        OSError: The log can't be written, or belongs to another user.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    path = Path(log_file).absolute()
    locks = prepare(path)
    to_file = WholeLines(
        str(path),
        maxBytes=log_bytes,
        backupCount=_KEPT,
        encoding="utf-8",
        lock_file_directory=str(locks),
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

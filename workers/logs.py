"""Logging to the console and to `logger.log`, which many processes write and rotate together.

Invariants:
1. Each event is one line. Passwords in URLs are masked in every line of every logger, also if a log can't be written.
2. The rotation is concurrent-log-handler's. Its lock between processes is a file in a folder beside the log.
3. A log is a regular file: a rotation gives its name to a new file, which would replace a device such as /dev/null.
4. A forked child opens its own files: parent and child would share a lock from before the fork.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from concurrent_log_handler import ConcurrentRotatingFileHandler

from redlock import _files
from redlock._escaping import escape
from redlock._log import LineFormatter
from redlock._masking import mask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import TextIOWrapper

_KEPT = 5
_FORMAT = "%(asctime)s %(levelname)-7s %(processName)s[%(process)d] %(name)s: %(message)s"


class MaskingFormatter(LineFormatter):
    """Formats each record as one line, without the passwords of URLs."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line of the record itself, masked. The traceback is masked alone, so no line hides its traceback."""
        text = super().formatMessage(record)
        # The lock's events have no secrets, and text of two fields could look like one secret.
        return text if hasattr(record, "redlock_event") else mask(text)


class MaskedFailures(logging.Handler):
    """A handler that reports each lost line in one line, for example while the disk is full.

    The report of `logging` has the arguments and the error of the lost line as they are, with their passwords.
    """

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - its name in logging
        """Write the report to stderr."""
        if sys.__stderr__ is None:
            # Closed by the caller: a connection or a file may have its number.
            return
        error = sys.exc_info()[1]
        text = mask(f"a line of {record.name} was not logged: {type(error).__name__}: {error}")
        with contextlib.suppress(OSError):
            os.write(2, f"{escape(text)}\n".encode(errors="replace"))


class Console(MaskedFailures, logging.StreamHandler):  # type: ignore[type-arg]  # no type arguments at run time
    """The console."""


class WholeLines(MaskedFailures, ConcurrentRotatingFileHandler):
    """A handler that delays a soft time limit until the line is written.

    Celery raises the limit's exception by SIGUSR1 at any point of the task. Inside the handler, its own
    `except Exception` would swallow the exception, and the task would run on to its hard limit.
    """

    def do_open(self, mode: str | None = None) -> TextIOWrapper:  # noqa: ARG002 - with old files kept it is always "a"
        """Open the log, also after a rotation, and never a file of another user."""
        return os.fdopen(_open(Path(self.baseFilename)), "a", encoding=self.encoding, newline=self.newline)

    def doRollover(self) -> None:  # noqa: N802 - its name in logging
        """Rotate. If that fails, remove the full log.

        In a shared folder another user can hold the name of an old log, and each full log would stay.
        """
        path = Path(self.baseFilename)
        before = set(_parts(path))
        try:
            super().doRollover()
        except OSError:
            for part in set(_parts(path)) - before:
                # Another user may have made a file or a folder of such a name meanwhile.
                with contextlib.suppress(OSError):
                    part.unlink()
            raise

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        try:
            super().emit(record)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _parts(path: Path) -> Iterator[Path]:
    """The logs that a rotation has moved away and not given their name yet."""
    return path.parent.glob(f"{glob.escape(path.name)}.rotate.*")


def _open(path: Path) -> int:
    """Open a log to append, and never wait for the reader of a pipe.

    Raises:
        OSError: The log can't be opened, is no regular file, or belongs to another user.
    """
    folder = path.parent.resolve()
    # There /dev/stdout is the name of a regular file too, and not a name to rotate.
    is_devices = folder == Path("/dev") or folder.is_relative_to("/proc")
    if is_devices or (path.exists() and not (path.is_file() or path.is_dir())):
        raise OSError(errno.EINVAL, "a log is rotated, so it must be a regular file", str(path))
    return _files.open_to_append(path)


def prepare(path: Path) -> Path:
    """Create a log and the folder of its rotation lock, and return that folder.

    No other user can enter that folder. A lock file that another user can open can be held by that user, and each
    worker would wait for the lock at its first line.

    Raises:
        OSError: The log or the folder can't be created, or belongs to another user. Or the log is no regular file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(_open(path))
    locks = path.with_name(f".{path.name}.lock")
    _files.private_folder(locks)
    return locks


def configure(log_file: str, log_bytes: int, *, console: bool = True) -> None:
    """Send everything at INFO to file and console, and the lock's DEBUG events to the file too.

    To be called again after a fork: the call replaces the handlers.

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
        to_console = Console()
        to_console.setLevel(logging.INFO)
        handlers.append(to_console)
    for handler in handlers:
        handler.setFormatter(MaskingFormatter(_FORMAT))
        root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.getLogger("redlock").setLevel(logging.DEBUG)

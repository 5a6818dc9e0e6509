"""The output of the commands: lines on stdout and stderr, and a log file.

Invariants:
1. An output that can't be written changes no exit status and ends no program. Its first failure is reported, except for
   a pipe that its reader has closed.
2. A line on stderr can't control the terminal.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from pathlib import Path

from redlock import _files
from redlock._escaping import escape
from redlock._log import LineFormatter, logger


def open_streams() -> None:
    """Prepare the standard streams.

    Each that the caller has closed is replaced: a connection to a node would take its number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A task chooses names of resources, and a terminal may lack their characters.
        sys.stdout.reconfigure(errors="backslashreplace")


def close_streams() -> None:
    """Write the rest of the output. Python would end with status 120 if it can't be written."""
    _write("")
    try:
        sys.stderr.flush()
    except OSError:
        _discard(2)


def show(text: str) -> bool:
    """Print lines on stdout at once, and return whether this was possible. The caller has escaped texts of others."""
    return _write(f"{text}\n")


def say(text: str) -> None:
    """Print a line on stderr, and ignore a failure."""
    try:
        print(f"redlock: {escape(text)}", file=sys.stderr, flush=True)
    except OSError:
        _discard(2)


def _write(text: str) -> bool:
    """Write this and the rest of the output to stdout; whether this was possible."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        _discard(1)
        if not isinstance(error, BrokenPipeError):
            say(f"the output can't be written: {reason_of(error)}")
        return False
    return True


def _discard(number: int) -> None:
    """Let the rest of this stream go nowhere."""
    stream = (sys.stdin, sys.stdout, sys.stderr)[number]
    # A stream of a test has no number.
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()


def reason_of(error: OSError) -> str:
    """The reason of this error, without a file name."""
    return (error.strerror or str(error)).lower()


class _Log(logging.Handler):
    """Appends records to a file, and ignores failures."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self._file = _files.open_to_append(path)
        self._failed = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record. Only the first failure is reported."""
        try:
            os.write(self._file, f"{self.format(record)}\n".encode(errors="replace"))
        except OSError as error:
            if not self._failed:
                self._failed = True
                say(f"log file {self._path!r}: {reason_of(error)}; going on without it")


def log_to(path: str) -> None:
    """Open a file and write the lock's events to this file.

    Raises:
        OSError: The file can't be opened.
    """
    handler = _Log(path)
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)-7s %(process)d %(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)

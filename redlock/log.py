"""One line per event, with fields that a person can read and a machine can find.

Rules: an event has a fixed name and its fields as `key=value`; the same fields are on the record as
`redlock_event` and `redlock_fields`; owner tokens appear only as `model.shown` shows them, nodes by label.
Who wants to act on events, such as what counts them, watches here instead of being called from everywhere.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

logger = logging.getLogger("redlock")
logger.addHandler(logging.NullHandler())

_watchers: list[Callable[[str, Mapping[str, object]], None]] = []


def watch(watcher: Callable[[str, Mapping[str, object]], None]) -> None:
    """Show every event from now on, whatever the level of the log, to this function; it must be quick and not raise."""
    _watchers.append(watcher)


def is_heard(level: int = logging.INFO) -> bool:
    """Whether anybody takes notice of events of this level: the fields of one that nobody hears need not be made."""
    return bool(_watchers) or logger.isEnabledFor(level)


def debug(event: str, **fields: object) -> None:
    """An event that only somebody who looks closely wants."""
    _emit(logging.DEBUG, event, fields)


def info(event: str, **fields: object) -> None:
    """An event of ordinary life."""
    _emit(logging.INFO, event, fields)


def warning(event: str, **fields: object) -> None:
    """An event that somebody should know of."""
    _emit(logging.WARNING, event, fields)


def _emit(level: int, event: str, fields: dict[str, object]) -> None:
    for watcher in _watchers:
        watcher(event, fields)
    if logger.isEnabledFor(level):
        text = " ".join(f"{name}={_plain(value)}" for name, value in fields.items())
        logger.log(level, "%s %s", event, text, extra={"redlock_event": event, "redlock_fields": fields})


def _plain(value: object) -> str:
    text = str(value)
    return repr(text) if not text or any(c.isspace() or c in "\"'=" for c in text) else text

"""One line per event, with fields that a person can read and a machine can find.

Rules: an event has a fixed name and its fields as `key=value`; the same fields are on the record as
`redlock_event` and `redlock_fields`; owner tokens appear only as `model.shown` shows them, nodes by label.
"""

from __future__ import annotations

import logging

logger = logging.getLogger("redlock")
logger.addHandler(logging.NullHandler())


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
    if logger.isEnabledFor(level):
        text = " ".join(f"{name}={_plain(value)}" for name, value in fields.items())
        logger.log(level, "%s %s", event, text, extra={"redlock_event": event, "redlock_fields": fields})


def _plain(value: object) -> str:
    text = str(value)
    return repr(text) if not text or any(c.isspace() or c in "\"'=" for c in text) else text

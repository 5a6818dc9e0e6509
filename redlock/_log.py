"""Log events: a line per event, with a fixed name and fields as `key=value`.

Invariants:
1. The record has the same fields as `redlock_event` and `redlock_fields`: numbers, texts and mappings of these.
2. Owner tokens appear only as `masked_token` shows them, and nodes only by label. Secrets are hidden in the record, so
   no formatter needs to search the line: a search would take text of two fields for a single secret.
3. Code that acts on events, such as metrics, uses `watch`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from redlock._escaping import escape, escape_blanks, shortened
from redlock._masking import mask

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST_FIELD = 2_000
"""The most characters of a field. A longer task id could push the end of its field and the next fields off the line."""

logger = logging.getLogger("redlock")
logger.addHandler(logging.NullHandler())

_watchers: dict[str, list[Callable[[str, Mapping[str, object]], None]]] = {}


class LineFormatter(logging.Formatter):
    """Writes each record as one line, and its traceback indented and masked: no text can forge a record."""

    def format(self, record: logging.LogRecord) -> str:
        """The record with its traceback."""
        # A handler with another formatter may have left its own text of the traceback here.
        record.exc_text = None
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line of the record itself."""
        record.message = escape_blanks(shortened(record.message))
        return escape(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: ANN401, N802 - logging's signature
        """The traceback."""
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 - logging's name
        """The stack."""
        return _indented(super().formatStack(stack_info))


def _indented(text: str) -> str:
    return mask("\n".join(f"  {escape(line)}" for line in shortened(text).split("\n")))


def watch(watcher: Callable[[str, Mapping[str, object]], None], *events: str) -> None:
    """Pass these events, at any level, to this function from now on. The function must be quick and never raise."""
    for event in events:
        _watchers.setdefault(event, []).append(watcher)


def is_heard(event: str, level: int = logging.INFO) -> bool:
    """Whether an event of this level has a watcher or a log handler; without either its fields need not be made."""
    return event in _watchers or logger.isEnabledFor(level)


def count(event: str, **fields: object) -> None:
    """Pass an event to its watchers only: without a line, because a moment ago a line was logged."""
    for watcher in _watchers.get(event, ()):
        watcher(event, fields)


def debug(event: str, **fields: object) -> None:
    """Log an event at level DEBUG."""
    _emit(logging.DEBUG, event, fields)


def info(event: str, **fields: object) -> None:
    """Log an event at level INFO."""
    _emit(logging.INFO, event, fields)


def warning(event: str, **fields: object) -> None:
    """Log an event at level WARNING."""
    _emit(logging.WARNING, event, fields)


def failure(event: str, error: BaseException, **fields: object) -> None:
    """Log an event at level ERROR, with the traceback of its cause."""
    _emit(logging.ERROR, event, fields, error)


def _emit(level: int, event: str, fields: dict[str, object], error: BaseException | None = None) -> None:
    count(event, **fields)
    if logger.isEnabledFor(level):
        shown = {name: _shown(value) for name, value in fields.items()}
        text = escape_blanks(escape(" ".join(f"{name}={_plain(value)}" for name, value in shown.items())))
        extra = {"redlock_event": event, "redlock_fields": shown}
        logger.log(level, "%s %s", event, text, exc_info=error, extra=extra)


def _shown(value: object) -> object:
    """A value without secrets. Each value is masked alone: a quote in the name of a task would hide the next field."""
    if isinstance(value, Mapping):
        return {name: _shown(part) for name, part in value.items()}
    if value is None or isinstance(value, int | float):
        return value
    text = str(value)
    # Between quotes, because a blank does not end a password there.
    escaped = f"'{escape(text)}'"
    masked = mask(escaped)
    # Only now shortened to a field: half of an address does not look like an address.
    return shortened(text if masked == escaped else masked[1:-1], LONGEST_FIELD)


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        value = "; ".join(f"{name}: {part}" for name, part in value.items()) or "-"
    text = str(value)
    return repr(text) if not text or any(c.isspace() or c in "\"'=" for c in text) else text

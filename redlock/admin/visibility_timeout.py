"""Compares the visibility timeout of Celery's broker with the times for which locked tasks hold their messages.

Invariants:
1. The shortest configured value counts, because the broker redelivers by that value.
2. A setting of a wrong type is a finding and ends no check: Celery itself may never read the setting.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs

from redlock._masking import quoted
from redlock.admin.broker_address import AMQP, urls
from redlock.admin.diagnostics import Finding, warning

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_NAME = "visibility_timeout"
_OPTIONS, _QUEUES = "broker_transport_options", "predefined_queues"
_URLS = ("broker_url", "broker_read_url", "broker_write_url")
_DEFAULTS = {"redis": 3_600.0, "rediss": 3_600.0, "sentinel": 3_600.0, "sqs": 1_800.0}
"""The defaults of kombu's transports, in seconds."""

MARK = "__redlock__"
"""The attribute of a function under `@locked`: its `wait` and `ttl` in seconds; a `ttl` of None is the app's."""
ENTRIES = ("run", "__call__")
"""The methods of a task that a worker calls."""


class _Read(NamedTuple):
    urls: list[str]
    given: list[object]
    faults: list[tuple[str, str]]


class Locked(NamedTuple):
    """A task under `@locked`.

    Attributes:
        name: The task's name.
        wait: Seconds that the task waits for its lock in the worker's slot.
        ttl: Seconds that the lease lasts.
        time_limit: The hard time limit in seconds; None without a limit. Celery lets any value pass.
    """

    name: str
    wait: float
    ttl: float
    time_limit: object


def marks(task: object, name: str = MARK) -> Iterator[Any]:
    """Yield the marks of the functions that a worker calls for a task, and not of functions that the body calls.

    Decorators that use `functools.wraps` pass a mark on, as Celery's `autoretry_for` does. A `run` can call the `run`
    of its base class.
    """
    for owner in (task, *task.__class__.__mro__):
        for entry in ENTRIES:
            mark = getattr(getattr(owner, entry, None), name, None)
            if mark is not None:
                yield mark


def is_locked(task: object) -> bool:
    """Return whether a task is under `@locked`."""
    return next(marks(task), None) is not None


def locked_tasks(app: Any, ttl: float, time_limit: float | None) -> list[Locked]:
    """Return the tasks of an app that are under `@locked`.

    Args:
        app: The Celery app, with its tasks imported.
        ttl: Seconds that a lease lasts for tasks without an own `ttl`.
        time_limit: The hard limit in seconds of tasks without an own limit; None without a limit.
    """
    return [
        Locked(name, wait, own_ttl or ttl, task.time_limit or time_limit)
        for name, task in sorted(app.tasks.items())
        for wait, own_ttl in dict.fromkeys(marks(task))
    ]


def timeout_of(conf: Mapping[str, Any]) -> float | None:
    """Return the visibility timeout of an app's broker in seconds; None without a timeout, or if unknown."""
    return _timeout(_read(conf))


def is_amqp(conf: Mapping[str, Any]) -> bool:
    """Return whether an app's broker is RabbitMQ, which is Celery's default."""
    return _scheme(_read(conf)) in {"", *AMQP}


def _scheme(read: _Read) -> str:
    return read.urls[0].partition("://")[0].lower().partition("+")[0] if read.urls else ""


def _timeout(read: _Read) -> float | None:
    scheme = _scheme(read)
    if scheme in AMQP:
        # RabbitMQ redelivers a message after the loss of its connection, and has no such timeout.
        return None
    given = read.given + [value for url in read.urls for value in parse_qs(url.partition("?")[2]).get(_NAME, [])]
    seconds = [number for number in map(_number, given) if number is not None]
    return min(seconds, default=_DEFAULTS.get(scheme))


def findings(conf: Mapping[str, Any], tasks: Iterable[Locked]) -> list[Finding]:
    """Return warnings about tasks that can hold a message for longer than the visibility timeout."""
    read = _read(conf)
    found = [_warning(what, fix) for what, fix in read.faults]
    timeout = _timeout(read)
    if timeout is None:
        return found
    limits: list[tuple[float, str]] = []
    for task in tasks:
        limits += [(task.wait, f"wait of {task.name}"), (task.ttl, f"ttl of {task.name}")]
        limit = task.time_limit or 0.0
        if isinstance(limit, int | float):
            limits.append((limit, f"time limit of {task.name}"))
        else:
            what = f"the time limit of {task.name} is {type(limit).__name__} {quoted(limit, 40)}"
            found.append(_warning(what, "set a number of seconds"))
    longest, what = max(limits, default=(0.0, ""))
    if longest >= timeout:
        what = (
            f"its visibility timeout is {timeout:g} s, and the {what} is {longest:g} s: "
            "the message is delivered again while the task waits or runs"
        )
        found.append(_warning(what, f"set broker_transport_options['{_NAME}'] to more than {longest:g}"))
    return found


def address(conf: Mapping[str, Any], name: str) -> Any:
    """The setting with this name. As in Celery, the environment goes before the settings of an app."""
    return (os.environ.get(f"CELERY_{name.upper()}") if hasattr(conf, name) else None) or conf.get(name)


def _read(conf: Mapping[str, Any]) -> _Read:
    """The addresses, the visibility timeouts in other places, and the settings of a wrong type with their fixes.

    An address in a setting of a wrong type may hold a password, so only the type is named.
    """
    read = _Read([], [], [])
    for name in _URLS:
        value = address(conf, name) or []
        for url in value if isinstance(value, list | tuple) else [value]:
            if isinstance(url, str):
                read.urls.extend(urls(url))
            else:
                what = f"{name} {'holds' if isinstance(value, list | tuple) else 'is'} {type(url).__name__}"
                read.faults.append((what, "write an address, or a list of addresses"))
    options = _dictionary(read, _OPTIONS, conf.get(_OPTIONS))
    queues = _dictionary(read, f"{_OPTIONS}['{_QUEUES}']", options.get(_QUEUES))
    for name, queue in queues.items():
        read.given.append(_dictionary(read, f"{_OPTIONS}['{_QUEUES}']['{name}']", queue).get(_NAME))
    read.given.append(options.get(_NAME))
    return read


def _dictionary(read: _Read, name: str, value: object) -> Mapping[str, Any]:
    if value and not isinstance(value, Mapping):
        read.faults.append((f"{name} is {type(value).__name__}", "write a dictionary"))
    return value if isinstance(value, Mapping) else {}


def _warning(what: str, fix: str) -> Finding:
    return warning("visibility-timeout", "broker", what, fix)


def _number(value: object) -> float | None:
    with contextlib.suppress(TypeError, ValueError):
        seconds = float(value)  # type: ignore[arg-type]  # another type raises TypeError
        return seconds if seconds > 0 else None
    return None

"""Compares the visibility timeout of Celery's broker with the times for which locked tasks hold their messages.

Invariants:
1. The shortest configured value counts, because the broker redelivers by that value.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs

from redlock.admin.diagnostics import Finding, Level

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["MARK", "Locked", "findings", "locked_tasks", "timeout_of"]

_NAME = "visibility_timeout"
_URLS = ("broker_url", "broker_read_url", "broker_write_url")
_DEFAULTS = {"redis": 3_600.0, "rediss": 3_600.0, "sentinel": 3_600.0, "sqs": 1_800.0}
"""The defaults of kombu's transports, in seconds."""
_WITHOUT = ("amqp", "amqps", "pyamqp", "librabbitmq")
"""RabbitMQ redelivers a message after the loss of its connection, and has no such timeout."""


MARK = "__redlock__"
"""The attribute of a function under `@locked`: its `wait` and `ttl` in seconds; a `ttl` of None is the app's."""


class Locked(NamedTuple):
    """A task under `@locked`.

    Attributes:
        name: The task's name.
        wait: Seconds that the task waits for its lock in the worker's slot.
        ttl: Seconds that the lease lasts.
        time_limit: The hard time limit in seconds; None without a limit.
    """

    name: str
    wait: float
    ttl: float
    time_limit: float | None


def locked_tasks(app: Any, ttl: float, time_limit: float | None) -> list[Locked]:  # noqa: ANN401 - Celery is untyped
    """Return the tasks of an app that are under `@locked`.

    Args:
        app: The Celery app, with its tasks imported.
        ttl: Seconds that a lease lasts for tasks without an own `ttl`.
        time_limit: The hard limit in seconds of tasks without an own limit; None without a limit.
    """
    found = []
    for name, task in sorted(app.tasks.items()):
        wait, own_ttl = getattr(task.run, MARK, (None, None))
        if wait is not None:
            found.append(Locked(name, wait, own_ttl or ttl, task.time_limit or time_limit))
    return found


def timeout_of(conf: Mapping[str, Any]) -> float | None:
    """Return the visibility timeout of an app's broker in seconds; None without a timeout, or if unknown.

    Args:
        conf: The app's configuration: transport options, also those of SQS's predefined queues, and addresses.
    """
    urls = list(_urls(conf))
    scheme = urls[0].partition("://")[0].lower().partition("+")[0] if urls else ""
    if scheme in _WITHOUT:
        return None
    options = conf.get("broker_transport_options") or {}
    given = [options.get(_NAME)]
    given += [queue.get(_NAME) for queue in (options.get("predefined_queues") or {}).values()]
    given += [value for url in urls for value in parse_qs(url.partition("?")[2]).get(_NAME, [])]
    seconds = [number for number in map(_number, given) if number is not None]
    return min(seconds, default=_DEFAULTS.get(scheme))


def findings(conf: Mapping[str, Any], tasks: Iterable[Locked]) -> list[Finding]:
    """Return warnings about tasks that can hold a message for longer than the visibility timeout.

    Args:
        conf: The app's configuration.
        tasks: The app's tasks under `@locked`.
    """
    timeout = timeout_of(conf)
    if timeout is None:
        return []
    limits: list[tuple[float, str]] = []
    for task in tasks:
        limits += [(task.wait, f"wait of {task.name}"), (task.ttl, f"ttl of {task.name}")]
        limits.append((task.time_limit or 0.0, f"time limit of {task.name}"))
    longest, what = max(limits, default=(0.0, ""))
    if longest < timeout:
        return []
    return [
        Finding(
            Level.WARNING,
            "visibility-timeout",
            "broker",
            f"its visibility timeout is {timeout:g} s, and the {what} is {longest:g} s: "
            "the message is delivered again while the task waits or runs",
            f"set broker_transport_options['{_NAME}'] to more than {longest:g}",
        )
    ]


def _urls(conf: Mapping[str, Any]) -> Iterator[str]:
    for name in _URLS:
        value = conf.get(name) or []
        for url in [value] if isinstance(value, str) else value:
            yield from filter(None, map(str.strip, str(url).split(";")))


def _number(value: object) -> float | None:
    with contextlib.suppress(TypeError, ValueError):
        seconds = float(value)  # type: ignore[arg-type]  # another type raises TypeError
        return seconds if seconds > 0 else None
    return None

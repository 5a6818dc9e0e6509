"""The content of the message that started a task's run, as arguments for `apply_async`.

Invariants:
1. The content has every choice of the sender: id, arguments, serializer, compression, headers, stamps, priority,
   properties, expiry, time limits, links and the place of the result.
2. The arguments are those of the arrival, whatever the body has changed in them.
3. Headers from the broker are removed: RabbitMQ takes a returning `x-death` for a loop and holds the message.
"""

from __future__ import annotations

import pickle
import re
from typing import TYPE_CHECKING, Any

from celery.app.task import Context
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import task_received
from kombu.serialization import registry

from redlock.admin.visibility_timeout import is_locked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery import Task

CONTENT_TYPE = "redlock_content_type"
"""A mark added on arrival if message and task differ in their serializer: Celery hides the serializer from tasks."""
NAMES = "redlock_names"
"""A mark added on arrival if a header is named `headers`: the names of all headers. Celery shows a task the inner ones.
Attributes of a request that are no headers of its message belong to a signal handler or the body."""
_OF_CELERY = {"lang", "task", "argsrepr", "kwargsrepr", "compression"}
"""Celery's headers without an attribute in its `Context`."""
_OF_THE_BROKER = re.compile(r"x-(death|first-death-|last-death-|delivery-count|acquired-count|opt-)")
_PROPERTIES = ("delivery_mode", "app_id", "message_id", "type")
_CONSTANT = {str, int, float, bool, bytes, type(None)}
"""The types of arguments that no body can change."""


def ignores_result(task: Task) -> bool:
    """Whether this run of a task stores no result. A sender may leave that choice to the task."""
    choice = vars(task.request).get("ignore_result")
    return bool(task.ignore_result if choice is None else choice)


class MessageContent:
    """The content of a message.

    Args:
        request: The request of the run.
        content_type: The mark of the message's serializer.
        names: The mark of the names of its headers.
    """

    def __init__(self, request: Context, content_type: object, names: object = None) -> None:
        self._request = request
        self._names = names if isinstance(names, list) else []
        self._serializer = registry.type_to_name.get(content_type)
        self._kept: bytes | None = None

    def keep_arguments(self) -> None:
        """Keep the arguments as they are now, before the first body of the run."""
        if self._kept is not None:
            return
        given = self._request.args or (), self._request.kwargs or {}
        if all(type(value) in _CONSTANT for value in (*given[0], *given[1].values())):
            return
        try:
            self._kept = pickle.dumps(given, pickle.HIGHEST_PROTOCOL)
        except SoftTimeLimitExceeded:
            raise
        except Exception:  # noqa: BLE001 - objects raise what they like; without a pickle they go back as they are then
            self._kept = None

    def arguments(self) -> tuple[Any, Any]:
        """The positional and the keyword arguments of the message."""
        if self._kept is not None:
            try:
                args, kwargs = pickle.loads(self._kept)  # noqa: S301 - of this process
            except SoftTimeLimitExceeded:
                raise
            except Exception:  # noqa: BLE001 - some exceptions have a pickle that can't be read
                self._kept = None
            else:
                return args, kwargs
        return self._request.args, self._request.kwargs

    def options(self, marks: Mapping[str, object], user_id: str | None) -> dict[str, Any]:
        """The options for `apply_async`, except the queue and the pause.

        Args:
            marks: Further headers.
            user_id: The user of the connection, the only one that RabbitMQ accepts; None if all are accepted.
        """
        request = self._request
        properties = request.properties or {}
        options: dict[str, Any] = request.as_execution_options() | {
            # Without the id of the parent, Celery would take the sending run for the parent.
            "headers": self._headers() | {**marks, "parent_id": request.parent_id},
            "add_to_parent": False,
        }
        if "ignore_result" in vars(request):
            # Otherwise the choice is that of the task. `Context` would show False.
            options["ignore_result"] = request.ignore_result
        optional = {
            "argsrepr": request.get("argsrepr"),
            "kwargsrepr": request.get("kwargsrepr"),
            "serializer": self._serializer,
            "compression": request.get("compression"),
            "priority": (request.delivery_info or {}).get("priority"),
            "correlation_id": request.correlation_id,
            "user_id": properties.get("user_id") if user_id in (None, properties.get("user_id")) else None,
        } | {name: properties.get(name) for name in _PROPERTIES}
        return options | {name: value for name, value in optional.items() if value is not None}

    def _headers(self) -> dict[str, Any]:
        """The sender's own headers."""
        request = self._request
        beside = {name: value for name, value in vars(request).items() if name in self._names}
        own = {name: value for name, value in beside.items() if not hasattr(Context, name)} | (request.headers or {})
        return {name: value for name, value in own.items() if name not in _OF_CELERY and not _OF_THE_BROKER.match(name)}


@task_received.connect
def _remember_the_message(request: Any, **_: Any) -> None:
    # Only the worker's main process sees the whole message. A retry carries the marks of an earlier message.
    for mark in (CONTENT_TYPE, NAMES):
        request.request_dict.pop(mark, None)
    task, message = request.task, request.message
    if not is_locked(task):
        return
    if message.content_type != registry.name_to_type.get(task.serializer):
        request.request_dict[CONTENT_TYPE] = message.content_type
    if "headers" in (message.headers or {}):
        request.request_dict[NAMES] = list(message.headers)

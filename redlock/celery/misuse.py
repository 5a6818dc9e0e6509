"""Checks for wrong uses of `@locked`. Each raises an error at import that names the right use."""

from __future__ import annotations

import inspect
from types import CodeType
from typing import TYPE_CHECKING

from celery import Task
from celery.local import Proxy

from redlock.admin.visibility_timeout import MARK
from redlock.errors import ConfigurationError

if TYPE_CHECKING:
    from types import FrameType

_EXAMPLE = 'write @locked("account:{account_id}") with the key of the resource to lock'


def refuse_bare(key: object, caller: FrameType) -> None:
    """Refuse `@locked` without parentheses. Then the key is the function under definition in the calling frame.

    Raises:
        ConfigurationError: The decorator stands on a function without parentheses.
    """
    code = getattr(key, "__code__", None)
    if not isinstance(code, CodeType) or code.co_name == "<lambda>" or code.co_filename != caller.f_code.co_filename:
        return
    last = max((line for *_, line in code.co_lines() if line is not None), default=code.co_firstlineno)
    if code.co_firstlineno <= caller.f_lineno <= last:
        raise ConfigurationError(f"@locked stands on {code.co_name} without a key; {_EXAMPLE}")


def refuse_target(function: object) -> None:
    """Refuse a target that is not a plain function.

    Raises:
        ConfigurationError: The target is a task, a coroutine, a generator, under another `@locked`, or no function.
    """
    if isinstance(function, Proxy | Task):
        raise ConfigurationError("@locked stands above @app.task; it must stand below, next to the function")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(
            f"@locked is on `async def {function.__name__}`; Celery would never run its body, use `def`"
        )
    if inspect.isgeneratorfunction(function):
        raise ConfigurationError(f"@locked is on {function.__name__}, a generator; its body would run without the lock")
    if not inspect.isroutine(function):
        raise ConfigurationError(f"@locked is on {function!r:.60}, which is no function; {_EXAMPLE}")
    if MARK in getattr(function, "__dict__", ()):
        raise ConfigurationError(
            f'two @locked on {function.__name__}; write @locked(["account:{{account_id}}", "user:{{user_id}}"]): '
            "only the outer lock could send the task back"
        )

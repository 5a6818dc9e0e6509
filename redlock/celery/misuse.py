"""Where `@locked` can't stand: each mistake is refused at import, with what would be right."""

from __future__ import annotations

import inspect
from types import CodeType
from typing import TYPE_CHECKING

from celery import Task
from celery.local import Proxy

from redlock.errors import ConfigurationError

if TYPE_CHECKING:
    from types import FrameType

_EXAMPLE = 'write @locked("account:{account_id}") with the key of what must not be worked on twice at once'


def refuse_bare(key: object, caller: FrameType) -> None:
    """Refuse `@locked` without parentheses: then its key is the function whose definition is being executed.

    Args:
        key: What `@locked` was given.
        caller: The frame that called it.

    Raises:
        ConfigurationError: It stands on a function without parentheses.
    """
    code = getattr(key, "__code__", None)
    if not isinstance(code, CodeType) or code.co_name == "<lambda>" or code.co_filename != caller.f_code.co_filename:
        return
    last = max((line for *_, line in code.co_lines() if line is not None), default=code.co_firstlineno)
    if code.co_firstlineno <= caller.f_lineno <= last:
        raise ConfigurationError(f"@locked stands on {code.co_name} without a key; {_EXAMPLE}")


def refuse_target(function: object) -> None:
    """Refuse what is no plain function: a task, a coroutine, a generator, or no function at all.

    Raises:
        ConfigurationError: It is one of these.
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

"""A decorator of users that calls their task again after each exception."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any


def again(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator between `@app.task` and `@locked` that calls a task up to three times."""

    @functools.wraps(function)
    def call(*args: object, **kwargs: object) -> object:
        for _ in range(2):
            with contextlib.suppress(Exception):
                return function(*args, **kwargs)
        return function(*args, **kwargs)

    return call

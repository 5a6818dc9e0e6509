"""The cancellation of a task at a chosen wait."""

from __future__ import annotations

import asyncio
import itertools
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")

MOMENTS = ("at once", "when the wait is over")


async def cancelled(
    work: Coroutine[Any, Any, T], number: int, moment: str, on_cancel: Callable[[], object] = lambda: None
) -> T:
    """Run this, and cancel the running task at its wait of this number.

    Args:
        work: The coroutine.
        number: The number of the wait, from 1 on.
        moment: A member of `MOMENTS`: at once, or in the iteration of the loop in which the wait ends.
        on_cancel: Called before the cancellation.
    """
    return await _cancelled(work, number, moment, on_cancel)


@types.coroutine
def _cancelled(
    work: Coroutine[Any, Any, T], number: int, moment: str, on_cancel: Callable[[], object]
) -> Generator[Any, Any, T]:
    task = asyncio.current_task()
    assert task is not None

    def cancel(_: object = None) -> None:
        on_cancel()
        task.cancel()

    step: Callable[[Any], Any] = work.send
    value: Any = None
    for count in itertools.count(1):
        try:
            future = step(value)
        except StopIteration as stop:
            result: T = stop.value
            return result
        if count == number:
            if moment == "at once" or future is None:
                cancel()
            else:
                # Before the task is resumed: its own callback comes later.
                future.add_done_callback(cancel)
        try:
            value = yield future
            step = work.send
        except BaseException as error:  # noqa: BLE001 - the coroutine gets what the task gets
            step, value = work.throw, error
    raise AssertionError

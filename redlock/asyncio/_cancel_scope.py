"""The cancellation of a block: `on_lost="cancel"` cancels the task inside, and `LockLost` leaves the block.

Invariants:
1. A cancellation from outside is never swallowed, also if the lease was lost too.
2. The task is cancelled once, by a callback of the loop or by another task, and only inside the block. So
   the cancellation arrives at the `await` where the block waits. Where the block is suspended by a `yield`, the
   cancellation arrives in the code that uses the generator.
3. A block that ends in another task swallows nothing: a cancellation there is from outside.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redlock import _log

COUNTS = hasattr(asyncio.Task, "uncancel")
"""Whether a task counts its cancellations: from Python 3.11 on."""
_MESSAGE = "redlock: the lease was lost"
_ENDED = "on_lost='cancel' cancels no task: the task that entered the block has ended"


class CancelScope:
    """A block of the running task."""

    def __init__(self, resource: str) -> None:
        task: Any = asyncio.current_task()
        assert task is not None, "a block runs in a task"
        self._resource, self._task = resource, task
        self._before: int = task.cancelling() if COUNTS else 0
        self._is_cancelled = self._has_ended = False
        self._is_outvoted = False
        """Before Python 3.11: whether another cancellation was on its way before this one."""

    def cancel(self) -> None:
        """Cancel the block, unless the block has ended."""
        if self._has_ended or self._is_cancelled or self._task is running_task():
            # The running task learns of the loss by an error of its own call.
            return
        if self._task.done():
            _log.failure("on-lost-failed", RuntimeError(_ENDED), resource=self._resource)
            return
        self._is_cancelled = True
        if COUNTS:
            self._task.cancel(_MESSAGE)
            return
        self._is_outvoted = self._is_cancelled_from_outside()
        if not self._is_outvoted:
            self._task.cancel(_MESSAGE)
            # A cancellation that comes before the task runs replaces the message.
            self._task._cancel_message = _MESSAGE  # noqa: SLF001 - no public attribute tells it

    def _is_cancelled_from_outside(self) -> bool:
        """Before Python 3.11: whether a cancellation is on its way. A second one would replace its message."""
        waits_for = self._task._fut_waiter  # noqa: SLF001 - no public attribute tells it
        return bool(self._task._must_cancel or (waits_for is not None and waits_for.cancelled()))  # noqa: SLF001 - as above

    def end(self, error: BaseException | None) -> bool:
        """End the block; whether its error is the cancellation of this scope alone.

        A generator around the block gets a `GeneratorExit` if its user closes the generator after the cancellation.
        Such an error has no message, so before Python 3.11 it counts as an error from outside.
        """
        self._has_ended = True
        if not self._is_cancelled:
            return False
        if COUNTS:
            alone = self._task.uncancel() <= self._before
        else:
            is_last = self._task._cancel_message == _MESSAGE  # noqa: SLF001 - as above
            alone = is_last and not self._is_outvoted and error is not None and error.args == (_MESSAGE,)
        is_cancelled = isinstance(error, asyncio.CancelledError | GeneratorExit)
        return alone and is_cancelled and self._task is running_task()


def running_task() -> asyncio.Task[Any] | None:
    """The running task; None outside of a task."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None

"""The parts of an asyncio lease that renewal uses: the step that is under way, and the report of a loss.

Invariants:
1. At most one step of a lease is under way, and a release ends the step.
2. The end of a lease with `on_lost` is noticed at the deadline, also without renewal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redlock._clock import now_ms
from redlock._locking.lease_steps import LeaseSteps

if TYPE_CHECKING:
    from collections.abc import Callable

    from redlock._core.commands import Names
    from redlock._core.protocol import Steps
    from redlock._locking.options import LeaseOptions
    from redlock._transport.asyncio import Execution
    from redlock.asyncio._cancel_scope import CancelScope
    from redlock.asyncio._loop_parts import LoopContext


class WatchedLease(LeaseSteps):
    """The base class of the asyncio `Lease`."""

    def __init__(
        self, context: LoopContext, names: Names, options: LeaseOptions, owner_label: str, *, is_block: bool
    ) -> None:
        super().__init__(context, names, options, owner_label, is_block=is_block)
        self._loop_context, self._parts = context, context.parts()
        self._scope: CancelScope | None = None
        """The block that a loss cancels."""
        self._step: Execution[Any] | None = None
        """The extension or renewal that is under way; its generator or its task has the turn of the mutex."""

    def _stop_step(self) -> None:
        """End the extension or renewal that is under way: its repair could follow a release, and restore the keys."""
        if self._step is not None:
            self._step.abort()
            self._step.future.cancel()
            self._step = None

    def _step_ended(self, step: Execution[Any]) -> None:
        """Another step may begin."""
        if self._step is step:
            self._step = None

    def _renewing(self) -> Steps[int]:
        if self._is_renewed:
            return (yield from super()._renewing())
        deadline_ms = self._held().deadline_ms
        if now_ms() >= deadline_ms:
            self._declare_lost("its time was over")
        return deadline_ms

    def _tell(self, lease: LeaseSteps) -> None:
        if isinstance(lease, WatchedLease) and lease._scope is not None:
            lease._scope.cancel()
        super()._tell(lease)

    def _call(self, on_lost: Callable[[], object]) -> None:
        self._parts.call(self.resource, on_lost)

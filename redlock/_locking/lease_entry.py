"""The entry of a re-entrant block into a lease that the running code holds already.

Invariants:
1. Each block has its own entry and releases only that entry.
2. The lease has only weak references to its entries. If an exception ends a block before its release, the entry
   disappears with the block, and neither keeps nor releases the lease.
3. `ttl`, `renew` and `max_hold` are those of the outer lease. A loss is reported to each entry with `on_lost`.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from redlock._locking.lease_steps import LeaseSteps
from redlock.errors import NotHeld

if TYPE_CHECKING:
    from collections.abc import Callable

    from redlock._core.votes import Grant


class LeaseEntry(LeaseSteps):
    """The base class of entries under every driver; the state is the state of the outer lease."""

    _outer: Any

    def __init__(self, outer: LeaseSteps, on_lost: Callable[[Any], object] | None, *, is_block: bool) -> None:
        # The outer lease has the state: the base class is not initialised.
        self.names, self._claims, self.ttl_ms = outer.names, outer._claims, outer.ttl_ms
        self._outer = outer
        self._on_lost = on_lost
        self._is_block = is_block

    @property
    def is_held(self) -> bool:
        """Whether the block runs and the outer lease is held."""
        return self._is_inside and self._outer.is_held

    @property
    def _is_inside(self) -> bool:
        return weakref.ref(self) in self._outer._entries

    @property
    def is_lost(self) -> bool:
        """Whether the outer lease is known to be lost."""
        return bool(self._outer.is_lost)

    @property
    def _lost(self) -> str:  # type: ignore[override]  # belongs to the outer lease, and is only read here
        return str(self._outer._lost)

    def _enter(self) -> None:
        self._outer.ensure_valid()
        entries = self._outer._entries
        entries.add(weakref.ref(self, entries.discard))
        if self._hears_of_loss:
            self._outer._watch()

    def _leave(self) -> bool:
        """End this entry; whether the lease must be released now, because its own block and all entries have ended."""
        self._held()
        self._outer._entries.discard(weakref.ref(self))
        self._caller_context = None
        return bool(self._outer._is_left and not self._outer._entries)

    def _held(self) -> Grant:
        if not self._is_inside:
            raise NotHeld(f"lock {self.resource!r} is not held here", self.resource)
        grant: Grant = self._outer._held()
        return grant

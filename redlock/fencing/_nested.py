"""Fenced blocks inside other fenced blocks: their two commits are not atomic.

Invariants:
1. An inner block commits before the outer block, so the outer block can fail after half of the work was written. Both
   must have an operation id: a repetition then completes the half that is missing, and changes nothing in the other.
2. The half that was written without the other is logged as `partly-committed`.
"""

from __future__ import annotations

import contextlib
import weakref
from typing import TYPE_CHECKING

from redlock import _log
from redlock._locking.caller_context import package_variable
from redlock.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextvars import ContextVar

    from redlock.fencing._arguments import Given

_open: ContextVar[tuple[weakref.ref[Block], ...]] = package_variable("redlock_fenced_blocks", ())
"""The open blocks of this thread or task, the outermost first; a task inherits those of its creator.

Weak, because a signal can end a `with` statement between the fence and its body: such a block has no end.
"""


class Block:
    """A fenced block that has passed its fence, open until `ending`.

    Args:
        given: The arguments of the block.
    """

    def __init__(self, given: Given) -> None:
        self.given = given
        self._outer = _innermost()
        self._committed: list[str] = []
        self.is_open = True
        _open.set((*_open.get(), weakref.ref(self)))

    @contextlib.contextmanager
    def ending(self, exc: BaseException | None) -> Iterator[None]:
        """Commit or roll back inside this; `exc` is the exception that ended the body."""
        self.is_open = False
        _open.set(tuple(found for found in _open.get() if found() not in (None, self)))
        has_failed = True
        try:
            yield
            has_failed = exc is not None
        finally:
            if has_failed:
                self._report()
            else:
                self._committed.append(str(self.given.operation))
            if self._outer is not None:
                self._outer._committed.extend(self._committed)  # noqa: SLF001 - of this class

    def _report(self) -> None:
        if self._committed:
            _log.warning(
                "partly-committed",
                resource=", ".join(self.given.names),
                operation=self.given.operation,
                committed=", ".join(self._committed),
            )


def _innermost() -> Block | None:
    blocks = (found() for found in reversed(_open.get()))
    return next((block for block in blocks if block is not None and block.is_open), None)


def refuse_without_operations(operation: str | None) -> None:
    """Refuse a block inside another block unless both have an operation id.

    Raises:
        ConfigurationError: An operation id is missing.
    """
    outer = _innermost()
    if outer is not None and None in (outer.given.operation, operation):
        raise ConfigurationError(
            "this fenced block is inside another fenced block, and two transactions cannot commit as one: give both "
            "blocks an operation id, so that a repetition completes the half that is missing"
        )

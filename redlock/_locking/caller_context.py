"""The context variables of the code that acquires a lease, for its `on_lost` with asyncio.

Invariants: this package's own marks of a block or a task stay out. `on_lost` runs beside that block, not inside.
"""

from __future__ import annotations

from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

T = TypeVar("T")

_marks: list[tuple[ContextVar[Any], object]] = []


def package_variable(name: str, default: T) -> ContextVar[T]:
    """A context variable of this package, which has its default in the context of `on_lost`."""
    variable = ContextVar(name, default=default)
    _marks.append((variable, default))
    return variable


def caller_context() -> Context:
    """A copy of the context of the running code, without those of this package."""
    context = copy_context()
    for variable, default in _marks:
        if variable in context:
            context.run(variable.set, default)
    return context

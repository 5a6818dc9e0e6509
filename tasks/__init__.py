"""The tasks of the example. `from tasks import increment; increment.delay()` works from any shell."""

from tasks.counter import increment, increment_unlocked

__all__ = ["increment", "increment_unlocked"]

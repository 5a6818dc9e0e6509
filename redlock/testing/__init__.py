"""Real lock nodes for tests: start five, then kill, freeze, cut or empty them."""

from redlock import _installation  # noqa: F401 - the check
from redlock.testing.nodes import LockNode, LockNodes, lock_nodes

__all__ = ["LockNode", "LockNodes", "lock_nodes"]

"""What happens to the clients of a process when it forks and when it ends.

Invariants:
1. A forked child shares no connection, thread or queue with its parent.
2. Asynchronous releases reach the nodes before the process ends, also a child of multiprocessing or billiard. Such a
   child ends by `os._exit`, which runs no `atexit` hooks but the finalizers of multiprocessing.
"""

from __future__ import annotations

import atexit
import os
import weakref
from multiprocessing.util import Finalize, register_after_fork
from typing import TYPE_CHECKING

from redlock import _process

if TYPE_CHECKING:
    from redlock._locking.context import LockContext

_contexts: weakref.WeakSet[LockContext] = weakref.WeakSet()


def watch(context: LockContext) -> None:
    """Look after a client for as long as it is used."""
    _contexts.add(context)


def _reset_all_after_fork() -> None:
    assert _process.pid() == os.getpid(), "its hook was registered before this one, or connections would be shut down"
    for context in list(_contexts):
        context.reset_after_fork()


def _settle_all() -> None:
    for context in list(_contexts):
        context.pool.await_releases()


def _settle_at_the_end(_: object = None) -> None:
    Finalize(None, _settle_all, exitpriority=0)


os.register_at_fork(after_in_child=_reset_all_after_fork)
# Not `close`: a daemon thread may be at work to the end.
atexit.register(_settle_all)
# This process may be a child of multiprocessing. One that is forked later forgets the finalizers of its parent first.
_settle_at_the_end()
register_after_fork(watch, _settle_at_the_end)

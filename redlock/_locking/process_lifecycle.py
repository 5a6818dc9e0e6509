"""Resets the clients of a process after a fork, and finishes asynchronous releases at its end.

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
    from redlock._locking.client_context import ClientContext

_contexts: weakref.WeakSet[ClientContext] = weakref.WeakSet()


def watch(context: ClientContext) -> None:
    """Register a client until the client is dropped."""
    _contexts.add(context)


def _reset_all_after_fork() -> None:
    assert _process.pid() == os.getpid(), (
        "the process id must be updated before this hook runs, or the hook would shut down the parent's connections"
    )
    for context in list(_contexts):
        context.reset_after_fork()


def _await_all_releases() -> None:
    for context in list(_contexts):
        context.await_releases()


def _await_releases_at_exit(_: object = None) -> None:
    Finalize(None, _await_all_releases, exitpriority=0)


_process.after_fork_in_child(_reset_all_after_fork)
# Not `close`: a daemon thread may use the client until the process ends.
atexit.register(_await_all_releases)
# This process may be a child of multiprocessing. A child that is forked later drops its parent's finalizers first.
_await_releases_at_exit()
register_after_fork(watch, _await_releases_at_exit)

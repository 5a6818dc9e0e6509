"""Increments with all possible ends of a task; `--include` adds them to a worker of the example.

Invariants:
1. The first delivery ends in the given way; every later delivery succeeds.
2. For an end from outside, such as a revoke or the loss of the worker, the task stays until the test acts.
"""

from __future__ import annotations

import functools
import resource
import time
from collections.abc import Callable

from celery import Task
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

from redlock import RedlockError
from redlock.celery import locked
from tests.faults.apps.counting import noted, section, server
from tests.faults.history import note
from tests.integration.tools import comes_true
from workers.app import app, lock_settings


def _ends(self: Task, name: str, ending: str, moment: str) -> int:
    """Increment. The first delivery ends in this way before or after its write; any later delivery succeeds."""
    op = self.request.id
    first = bool(server().set(f"faults:begun:{op}", 1, nx=True))
    ways = {moment: functools.partial(ENDINGS[ending], self)} if first else {}
    return section(op, name, ways.get("before", _return), ways.get("after", _return))


def _return(_: object = None) -> None:
    return None


def _raise(error: Exception) -> None:
    raise error


def _stay(self: Task) -> None:
    """Stay until the test continues or ends the task."""
    note("stay", self.request.id)
    comes_true(lambda: server().exists(f"faults:go:{self.request.id}"), within=100, every=0.02)


def _stay_deaf(self: Task) -> None:
    """Stay like a body that swallows the soft limit, so that only the hard limit ends the task."""
    try:
        _stay(self)
    except SoftTimeLimitExceeded:
        _stay(self)


def _run_out_of_memory(_: object) -> None:
    """Python notices: MemoryError."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 29, before[1]))
    try:
        bytearray(1 << 30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _be_killed_by_the_kernel(_: object) -> None:
    """The kernel's own SIGKILL, at a limit of CPU time: to lock and worker the same as the OOM killer's."""
    spent = int(time.process_time()) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (spent, spent))
    while True:
        pass


ENDINGS: dict[str, Callable[[Task], None]] = {
    "return": _return,
    "exception": lambda _: _raise(RedlockError("as planned")),
    "retry": lambda self: self.retry(countdown=0.1, max_retries=3),
    "ignore": lambda _: _raise(Ignore()),
    "reject": lambda _: _raise(Reject("as planned", requeue=False)),
    "reject and requeue": lambda _: _raise(Reject("as planned", requeue=True)),
    "memory error": _run_out_of_memory,
    "kernel": _be_killed_by_the_kernel,
    "stay": _stay,
    "hard limit": _stay_deaf,
}


for _name, _late, _ttl in (
    ("late", True, None),
    ("early", False, None),
    ("late_lasting", True, lock_settings.max_ttl),
    ("early_lasting", False, lock_settings.max_ttl),
):
    # "early" is acknowledged when it begins, and "lasting" has the longest lease.
    app.task(bind=True, acks_late=_late, name=f"{__name__}.{_name}")(noted(locked("faults:{name}", ttl=_ttl)(_ends)))

"""Checks the tasks of a worker at its start: refuses tasks that can't work and logs risky settings.

Invariants: the check runs after the import of the tasks and before the first task; a refusal is a single line.
"""

from __future__ import annotations

from typing import Any

from celery.signals import celeryd_after_setup

from redlock import _log
from redlock.admin import quorum_queues, visibility_timeout
from redlock.admin.visibility_timeout import ENTRIES, MARK, is_locked, marks
from redlock.celery import pools
from redlock.celery.conf import of_conf
from redlock.errors import ConfigurationError

_MISSING = (
    "the pool spawns its children, so they send no LOCK events, are missing in `inspect locks` and in the metrics, and "
    "neither their leases nor their requeues heed a time limit"
)
_FORK = (
    "let the pool fork, by worker_pool_start_method = 'fork', on macOS also by billiard.set_start_method('fork'); "
    "or use the pool threads or solo, or a max_hold on each task with a time limit, 15 s after its soft limit"
)
UNFINISHED = "__redlock_unfinished__"
"""The attribute that marks the result of `@locked(...)` before its use on a function."""


def refuse(app: Any) -> None:
    """Refuse to start if the lock of a task can't work.

    Raises:
        SystemExit: A task is wrong; the message names the task and the right use.
    """
    for name, task in sorted(app.tasks.items()):
        if any(marks(task, UNFINISHED)):
            raise SystemExit(f'{name} is under @locked without a key; write @locked("account:{{account_id}}")')
        on_run, on_call = (getattr(getattr(task, entry, None), MARK, None) for entry in ENTRIES)
        # A function has passed its mark on if both are the same.
        if on_run and on_call and on_run is not on_call:
            raise SystemExit(
                f"{name} has a @locked on its __call__ and one on its run: only the outer lock could send the task "
                "back; write one @locked with a list of keys"
            )
        # A call of a batch runs several messages, so a single message can't go back to the queue or be skipped.
        is_batch = any(base.__module__.partition(".")[0] == "celery_batches" for base in type(task).__mro__)
        if is_batch and is_locked(task):
            raise SystemExit(
                f"{name} is a task of celery-batches under @locked: a batch that did not get its lock would lose all "
                "its messages; take @locked off, and lock inside the task: `with client_for(app).lock(...)`"
            )
    _refuse_settings(app, [(name, ttl) for name, task in sorted(app.tasks.items()) for _, ttl in marks(task)])


def _refuse_settings(app: Any, locked: list[tuple[str, float | None]]) -> None:
    """Refuse settings with which no locked task could run."""
    if not locked:
        return
    what = "the lock settings of this worker"
    try:
        # This client only checks the settings and opens no connection. The children make their own clients.
        context = of_conf(app.conf).client()._context  # noqa: SLF001 - of this package
        for name, ttl in locked:
            what = f"@locked on {name}"
            if ttl is not None:
                context.checked_ttl_ms(ttl)
    except ConfigurationError as error:
        raise SystemExit(f"{what}: {error}") from None


@celeryd_after_setup.connect
def _check(instance: Any, **_: Any) -> None:
    app = instance.app
    refuse(app)
    tasks = visibility_timeout.locked_tasks(app, of_conf(app.conf).ttl, instance.time_limit)
    for finding in visibility_timeout.findings(app.conf, tasks):
        _log.warning("visibility-timeout", why=finding.what, remedy=finding.fix)
    for finding in quorum_queues.findings(app, tasks):
        _log.warning("direct-exchange", why=finding.what, remedy=finding.fix)
    if pools.spawns(instance):
        _log.warning("spawned-children", why=_MISSING, remedy=_FORK)

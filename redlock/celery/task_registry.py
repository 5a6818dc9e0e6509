"""The locks that the tasks of a worker hold and wait for: `celery -A your.app inspect locks`.

Invariants:
1. The children of a prefork worker run the tasks, and its main process answers. So each child writes its entries into
   its slot of shared memory. In the other pools the main process has all entries itself.
2. A write takes microseconds, needs no thread or file, and leaves nothing behind.
3. The answer is the view of the process and needs no lock node. `redlock status` has the view of the nodes.
4. Each slot has a single writing process, whose threads take turns. A reader of a half-written slot reads the slot
   again.
5. Entries of a dead child are not shown.
6. A signal handler may end a write with an exception: no later write waits for it.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import struct
import time
import weakref
from collections import Counter
from typing import TYPE_CHECKING, Any

from billiard import current_process
from celery import current_task
from celery.signals import worker_init, worker_process_init
from celery.worker.control import inspect_command

from redlock import _log
from redlock._escaping import bounded_label, excerpt
from redlock._locking.caller_context import package_variable
from redlock._locking.wait_report import iso
from redlock._mutex import Mutex
from redlock._process import after_fork_in_child, is_alive
from redlock.celery import task_events

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextvars import ContextVar

    from celery import Task

    from redlock.lease import Lease

SLOTS = 256
"""The number of slots. Children beyond this number are neither counted nor shown."""
_SLOT_BYTES = 16_384
_HEAD = struct.Struct("<III")
"""A sequence number that is odd during a write, the writer's process id, and the number of bytes that follow."""
_TRIES = 20
TURN_SECONDS = 1.0
"""The longest wait for the writes of other threads. Then the write is left out."""
_LONGEST_RESOURCE = 2_048
"""The most characters of the locked names together: every entry must fit into a slot, or it would not be shown."""


class TaskLockEntry:
    """The entry of one run of a task, from the beginning of its wait or hold to its end.

    Args:
        task: The task; None outside of a task.
        since: The begin of its wait, in seconds since 1970; 0 for the first report of the wait.
    """

    def __init__(self, task: Task | None, since: float = 0.0) -> None:
        # Read here, because the thread that reports a loss has no access to the task's request.
        self._about: dict[str, object] = {}
        if task is not None:
            task_id = task.request.id and bounded_label(str(task.request.id))
            self._about = {"task": task_id, "name": task.name}
        self._since = since
        self._shown: dict[str, object] = {}
        self.is_over = False

    def waiting(self, resource: object, holder: object) -> None:
        """Show that the run waits for this holder, `-` for an unknown holder. Called at each attempt."""
        if not self._shown:
            self._show("waits", resource, holder=holder)
        elif self._shown["state"] == "waits" and holder not in {"-", self._shown["holder"]}:
            self._shown = {**self._shown, "holder": holder}
            TASK_LOCKS.show(self, self._shown)

    def acquired(self, lease: Lease) -> None:
        """Show that the run holds the lock."""
        self._show("holds", lease.resource, fence=lease.fence)

    def lost(self, lease: Lease) -> None:
        """Show that the lock was lost while the run goes on. Another thread may call this after the end of the run."""
        self._show("lost", lease.resource)

    def over(self) -> None:
        """Remove the entry, because the run has ended or gone back to the queue."""
        if self._shown:
            TASK_LOCKS.hide(self)

    def _show(self, state: str, resource: object, **more: object) -> None:
        about = {**self._about, "state": state, "resource": excerpt(str(resource), _LONGEST_RESOURCE)}
        since = (self._since if state == "waits" else 0.0) or time.time()
        self._shown = {**about, "since": iso(since), "pid": os.getpid(), **more}
        TASK_LOCKS.show(self, self._shown)


class TaskLockRegistry:
    """The entries of this process, and in a worker's main process those of its children too."""

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None
        self.child_pid: int | None = None
        """This process, if it is a child of the worker's pool."""
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Discard the parent's entries in a forked child."""
        self._mutex = Mutex()
        # Weak references: a signal may keep a run from removing its entry, which must not be shown for ever.
        # The upkeep of a weak dictionary would be a third of the cost of a run here.
        self._entries: dict[weakref.ref[TaskLockEntry], dict[str, object]] = {}

    def share(self) -> None:
        """Create the shared memory, before the fork."""
        self._memory = mmap.mmap(-1, SLOTS * _SLOT_BYTES)

    def show(self, entry: TaskLockEntry, shown: dict[str, object]) -> None:
        """Add or update an entry."""
        with self._mutex.turn(TURN_SECONDS) or contextlib.nullcontext() as turn:
            if turn and not entry.is_over:
                self._entries[weakref.ref(entry, self._gone)] = shown
                self._write()

    def hide(self, entry: TaskLockEntry) -> None:
        """Remove an entry for good."""
        entry.is_over = True
        with self._mutex.turn(TURN_SECONDS) or contextlib.nullcontext() as turn:
            self._entries.pop(weakref.ref(entry), None)
            if turn:
                self._write()

    def _gone(self, torn: weakref.ref[TaskLockEntry]) -> None:
        self._entries.pop(torn, None)

    def listed(self) -> list[dict[str, Any]]:
        """All entries, the oldest first. Each wait has its position among the waits of this worker."""
        found: list[dict[str, Any]] = [dict(shown) for shown in self._entries.copy().values()]
        if self._memory is not None:
            for slot in range(SLOTS):
                found += self._read(self._memory, slot)
        found.sort(key=lambda shown: str(shown["since"]))
        before: Counter[object] = Counter()
        for shown in found:
            if shown["state"] == "waits":
                before[shown["resource"]] += 1
                shown["position"] = before[shown["resource"]]
        return found

    def _write(self) -> None:
        slot = own_slot()
        if self._memory is None or slot is None:
            return
        entries = list(self._entries.values())
        text = _packed(entries) if entries else b""
        while len(text) > _SLOT_BYTES - _HEAD.size:
            entries = entries[: len(entries) // 2]
            text = _packed(entries)
        start, pid = slot * _SLOT_BYTES, os.getpid()
        turn = (_HEAD.unpack_from(self._memory, start)[0] | 1) % 2**31
        _HEAD.pack_into(self._memory, start, turn, pid, 0)
        self._memory[start + _HEAD.size : start + _HEAD.size + len(text)] = text
        _HEAD.pack_into(self._memory, start, turn + 1, pid, len(text))

    @staticmethod
    def _read(memory: mmap.mmap, slot: int) -> list[dict[str, Any]]:
        start = slot * _SLOT_BYTES
        for _ in range(_TRIES):
            head = turn, pid, length = _HEAD.unpack_from(memory, start)
            if not length and turn % 2 == 0:
                return []
            text = memory[start + _HEAD.size : start + _HEAD.size + length]
            if turn % 2 == 0 and head == _HEAD.unpack_from(memory, start):
                shown: list[dict[str, Any]] = json.loads(text) if is_alive(pid) else []
                return shown
        return []


def _packed(entries: list[dict[str, object]]) -> bytes:
    return json.dumps(entries, ensure_ascii=False).encode(errors="replace")


def own_slot() -> int | None:
    """The slot number of this child of the worker; None in other processes and beyond the last slot."""
    place = getattr(current_process(), "index", None)
    # A process that a task starts has an index too: its own in a `billiard.Pool`, else the index of its parent.
    is_child = os.getpid() == TASK_LOCKS.child_pid
    return place if is_child and isinstance(place, int) and 0 <= place < SLOTS else None


def is_beyond_slots() -> bool:
    """Whether this process is a child without a slot, of the worker's pool or of a task."""
    return own_slot() is None and getattr(current_process(), "index", None) is not None


TASK_LOCKS = TaskLockRegistry()
after_fork_in_child(TASK_LOCKS.reset_after_fork)

_wait_in_body: ContextVar[TaskLockEntry | None] = package_variable("redlock_wait_in_body", None)


def _notice(event: str, fields: Mapping[str, object]) -> None:
    """Show a wait in the body of a task for a lock of its own. `@locked` shows its waits itself."""
    if not current_task or task_events.has_listeners():
        return
    entry = _wait_in_body.get()
    if event == "wait-ended":
        if entry is not None:
            _wait_in_body.set(None)
            entry.over()
        return
    if event == "waiting":
        entry = TaskLockEntry(current_task)
        _wait_in_body.set(entry)
    if entry is not None:
        entry.waiting(fields["resource"], fields["holder"])


_log.watch(_notice, "waiting", "retry", "wait-ended")


@worker_init.connect
def _share_with_children(**_: Any) -> None:
    TASK_LOCKS.share()


@worker_process_init.connect
def _note_child(**_: Any) -> None:
    TASK_LOCKS.child_pid = os.getpid()


@inspect_command(name="locks")
def _locks(_state: Any, **_: Any) -> list[dict[str, Any]]:
    """Show the locks that the tasks of each worker hold and wait for."""
    return TASK_LOCKS.listed()

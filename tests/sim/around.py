"""Other calls of a thread that holds a lock: correct calls, and wrong calls that must be refused.

Rules: whatever happens here, the lease of the operation stays as it is. Each lease that a call acquires is believed in
like any other, and its release is preceded by the end of that belief.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from redlock.client import Redlock
from redlock.lease import Lease as HeldLease
from redlock.lock import Lock
from tests.sim.network import FIRST_PORT
from tests.sim.world import MS

if TYPE_CHECKING:
    from tests.sim.clients import Worker
    from tests.sim.records import Operation

OTHERS = ("c", "d")
"""Resources that only these calls lock."""
_HOARD = 70
"""More leases than the leases of a thread have between two compactions."""
_HOUR_US = 3_600_000_000


class LookingAround:
    """The other calls of one thread.

    Args:
        worker: The thread.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker, self._world, self._options = worker, worker.world, worker.options
        self._errors: Any = worker.client.errors

    @property
    def _client(self) -> Redlock:
        return self._worker.client.redlock

    def __call__(self, lock: Lock, lease: HeldLease, operation: Operation) -> None:
        name = operation.names[0]
        match self._world.chance.randrange(10):
            case 0 | 1:
                self._enter_again(lock, operation)
            case 2:
                self._wait_for_itself(name)
            case 3:
                lock.owned()
            case 4:
                lock.locked()
            case 5:
                self._client.holder(name)
            case 6:
                self._leave_crosswise()
            case 7:
                self._wait_for_itself_for_ever(lease, name)
            case 8:
                self._hoard(lease, operation)
            case _:
                self._misuse(lock, lease, name)

    def _enter_again(self, lock: Lock, operation: Operation) -> None:
        worker = self._worker
        known = len(worker.tokens)
        with self._client.lock(operation.names, reentrant=True) as inner:
            try:
                # A lease that was lost is not shared.
                assert inner.fence == lock.fence or len(worker.tokens) > known
                worker.strand.sleep(self._options.think_ms * MS // 2)
            finally:
                self._forget(known)

    def _wait_for_itself(self, name: str) -> None:
        """The same thread waits for itself and gives up, unless the lease is lost meanwhile."""
        known = len(self._worker.tokens)
        again = self._client.lock(name, blocking_timeout=self._options.timeout_ms / 1000)
        if again.acquire():
            self._forget(known)
            again.release()

    def _wait_for_itself_for_ever(self, lease: HeldLease, name: str) -> None:
        """A wait without a limit is refused before its first attempt, unless the lease is lost."""
        known, again = len(self._worker.tokens), self._client.lock(name)
        self._worker.held = lease
        try:
            again.acquire()
        except self._errors.RedlockError:
            return
        finally:
            self._worker.held = None
        self._forget(known)
        again.release()

    def _leave_crosswise(self) -> None:
        """Two more locks; the first ends first."""
        known = len(self._worker.tokens)
        first, second = (self._client.lock(name, blocking_timeout=0) for name in OTHERS)
        try:
            if first.acquire() and second.acquire():
                self._worker.strand.sleep(self._options.think_ms * MS // 2)
        finally:
            self._forget(known)
            for one in (first, second):
                with suppress(self._errors.RedlockError):
                    one.release()

    def _hoard(self, lease: HeldLease, operation: Operation) -> None:
        """So many leases that the stack of the thread is compacted; the outer lease is found in the stack as before."""
        known, leases = len(self._worker.tokens), []
        try:
            for number in range(_HOARD):
                one = self._client.lease(f"hoard:{number}", forever=False)
                leases.append(one)
                one.acquire(0)
            with self._client.lock(operation.names, reentrant=True, blocking_timeout=0) as inner:
                if lease.remaining() > 0 and inner.fence != lease.fence:
                    self._world.violation("a thread did not find the lease that it holds")
        except self._errors.RedlockError:
            pass
        finally:
            self._forget(known)
            for one in leases[::2] + leases[1::2]:
                with suppress(self._errors.RedlockError):
                    one.release()

    def _misuse(self, lock: Lock, lease: HeldLease, name: str) -> None:
        """Calls that can't work are refused, and without any wait."""
        client, errors, wrong = self._client, self._errors, dict[str, Any]
        port = f"redis://10.0.0.1:{FIRST_PORT}"
        calls: tuple[tuple[Callable[[], object], type[Exception]], ...] = (
            (lambda: client.lock(name, **wrong(timeout=3)), errors.ConfigurationError),
            (lambda: client.lock(name, **wrong(colour=3)), TypeError),
            (lambda: lock.acquire(**wrong(blocking=3)), errors.ConfigurationError),
            (lambda: client.lock(name, ttl=10.0**6), errors.ConfigurationError),
            (lambda: client.lease(name, ttl_ms=10**9), errors.ConfigurationError),
            (lambda: client.lease(name, **wrong(ttl_ms="3")), errors.ConfigurationError),
            (lambda: lease.extend(-1.0), errors.ConfigurationError),
            (lambda: type(client)([port, port]), errors.ConfigurationError),
            (lambda: client.lease(name).release(), errors.NotHeld),
        )
        began = self._world.now
        for number, (call, expected) in enumerate(calls):
            try:
                call()
            except expected:
                continue
            self._world.violation(f"wrong call {number} was not refused")
        client.lock(name, ttl=self._worker.client.ttl_ms / 1000)
        client.lease(name, ttl_ms=self._worker.client.ttl_ms)
        # A token that no clock has shown is not remembered.
        far = client._context.proposal((name,), 0) + 10 * _HOUR_US * 10**6
        client.observe_fence(name, far)
        if client._context.proposal((name,), 0) > far:
            self._world.violation("a token far ahead of the clock was remembered")
        if self._world.now != began and not self._options.stalls:
            self._world.violation("a wrong call waited")
        if lease.rounds not in (1, 2):
            self._world.violation(f"a lease after {lease.rounds} rounds")

    def _forget(self, known: int) -> None:
        """The thread believes no more in the leases that it acquired here."""
        self._worker.client.believe_no_more(self._worker.tokens, known)

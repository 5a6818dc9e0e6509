"""The state of a lease and its steps: extension, renewal and release, as generators of rounds.

Invariants:
1. The state of a lease is its deadline. Code that stopped running cannot make an expired lease look alive.
2. Steps of one lease never overlap: a step runs only while its caller holds the mutex of the lease.
"""

from __future__ import annotations

import functools
import itertools
from contextvars import Context
from typing import TYPE_CHECKING, Any, NoReturn

from redlock import _process, _validation
from redlock._clock import now_ms
from redlock._core import protocol
from redlock._core.backoff import renewal_ms, retry_ms
from redlock._core.commands import Names, Wait
from redlock._core.votes import Grant
from redlock._core.votes import deadline_ms as deadline_of
from redlock._locking import failures, held_leases, misuse
from redlock._mutex import Mutex
from redlock.errors import LockLost, NotHeld, QuorumUnavailable

if TYPE_CHECKING:
    import weakref

    from redlock._core.protocol import Outcome, Steps
    from redlock._locking.client_context import ClientContext
    from redlock._locking.lock_leases import Caller
    from redlock._locking.options import LeaseOptions
    from redlock._transport.threads import ConnectionSet

_AGAIN_MS = 1_000
"""The shortest time between two log lines about failed extensions of a lease, which is tried several times a second."""
_BUSY_MS = 10
"""The time until the next try of a renewal if other code extends or releases the lease at this moment."""


class LeaseSteps:
    """The base class of `Lease`: state and steps."""

    waited_ms = 0
    """Milliseconds from the start of the acquisition, or the first delivery of its task, to the lease."""
    _caller: Caller
    """Of a lease of a `Lock`: the code that acquires the lease."""
    _thread: object = None
    """Of a block in a generator, for a `Lock` with `thread_local`: the thread that entered."""
    _order = 0
    """The number of the lease among the leases of all `Lock` objects."""
    _holding: held_leases.Holding | None = None
    """The thread, greenlet or task that has acquired the lease, and the context."""
    _is_released = False
    """Whether `Lock.release` has released the lease in its block; the end of the block raises `NotHeld`."""
    _releaser: weakref.ref[object] | None = None
    """The task whose last call of `release` was cancelled in the wait for the outcome. The call can be repeated."""
    _caller_context: Context | None = None
    """With asyncio and `on_lost`: the context variables of the acquiring code. An ended lease keeps none of them."""
    _is_watched = False
    """Whether the end of the lease is noticed at the deadline, without renewal."""

    def __init__(
        self, context: ClientContext, names: Names, options: LeaseOptions, owner_label: str, *, is_block: bool
    ) -> None:
        self.names = names
        self._claims = frozenset(zip(itertools.repeat(id(context)), names))
        self.ttl_ms = options.ttl_ms
        self._context = context
        self._parts: Any = context.parts()
        self._owner_label = owner_label
        self._is_renewed = options.renew and is_block
        self._max_hold_ms = options.max_hold_ms
        self._on_lost = options.on_lost
        self._is_block = is_block
        """Whether the lease ends with a block of code, and with that block all blocks inside."""
        self._grant: Grant | None = None
        self._connections: ConnectionSet | None = None
        self._outcome: Outcome | None = None
        self._acquired_ms = 0
        self._lost = self._stopped = ""
        self._next_line_ms = 0
        """The earliest time of the next log line about a failed extension."""
        self._is_loss_reported = True
        self._is_left = False
        """Whether the own block of the lease has ended, and only re-entrant blocks keep the lease."""
        self._is_leaving = False
        """Whether a release was begun. The renewal thread finishes an interrupted release."""
        self._mutex = Mutex()
        self._entries: set[weakref.ref[LeaseSteps]] = set()
        """Re-entrant blocks that share this lease."""
        self._pid = _process.pid()

    def __reduce__(self) -> NoReturn:
        raise TypeError(misuse.NO_COPY_OF_LEASE)

    @property
    def resource(self) -> str:
        """The locked names, with commas between them."""
        return ", ".join(self.names)

    @property
    def fence(self) -> int:
        """The fencing token: larger than that of every earlier lease on any of these resources.

        Raises:
            NotHeld: The lease was not acquired, or was released.
        """
        return self._held().fence

    @property
    def owner(self) -> str:
        """The owner token in the keys. The token is a secret: a client with the token can release the lock."""
        return self._held().token

    @property
    def rounds(self) -> int:
        """The number of rounds of the acquisition, 1 or 2."""
        return self._held().rounds

    @property
    def is_held(self) -> bool:
        """Whether this process acquired the lease and has not released the lease; the deadline may have passed."""
        return self._grant is not None and self._pid == _process.pid()

    @property
    def is_lost(self) -> bool:
        """Whether the lease is known to be lost: the deadline has passed, or a quorum has lost the keys."""
        grant = self._grant
        return bool(self._lost) or (grant is not None and grant.deadline_ms <= now_ms())

    @property
    def _is_releasing(self) -> bool:
        """Whether another call of `release` gets the outcome of the release that was sent."""
        return False

    def remaining(self) -> float:
        """Seconds until the deadline; 0.0 if the lease is lost."""
        return self._remaining_ms() / 1000

    def _extension_seconds(self, additional_time: float, *, replace_ttl: bool) -> float:
        """The seconds for `extend`: the additional time and, unless it replaces the TTL, the remaining time."""
        seconds = _validation.number("additional_time", additional_time)
        return seconds if _validation.flag("replace_ttl", replace_ttl) else self.remaining() + seconds

    def ensure_valid(self) -> None:
        """Raise `LockLost` if the lease is lost.

        The check shortens the time in which a lost lease goes unnoticed. A process can still be frozen right after this
        call. A write that must be right even then goes through the fenced store, or carries `fence` to a resource that
        checks the token.
        """
        if self._remaining_ms() <= 0:
            raise LockLost(self.resource, self._lost or f"its {self.ttl_ms / 1000:g} s are over")

    def _remaining_ms(self) -> int:
        return max(0, self._held().deadline_ms - now_ms()) if not self._lost else 0

    def _live_entries(self) -> list[LeaseSteps]:
        """The re-entrant blocks that share the lease."""
        return [entry for reference in tuple(self._entries) if (entry := reference()) is not None]

    def _is_shared(self, *, ends_blocks: bool) -> bool:
        """Whether a re-entrant block keeps the lease; with `ends_blocks` a block inside the ending block does not."""
        return bool(self._entries) and any(not (ends_blocks and entry._is_block) for entry in self._live_entries())

    @property
    def _hears_of_loss(self) -> bool:
        """Whether a loss of the lease is reported."""
        return self._on_lost is not None

    def _accept_grant(self, grant: Grant, connections: Any, waited_ms: int) -> None:  # noqa: ANN401 - of the driver
        """The lease was acquired, on these connections of the driver and after this time."""
        self._connections, self._grant, self._acquired_ms = connections, grant, now_ms()
        # A task has waited before, in the queue of its broker.
        self.waited_ms += waited_ms
        held_leases.add(self)
        if self._is_renewed:
            self._parts.renewal.add(self, self._acquired_ms + renewal_ms(grant.deadline_ms - self._acquired_ms))
        elif self._hears_of_loss:
            self._watch()
        # Last: without a thread for the renewal, the attempt fails and is cancelled.
        self._context.event_log.acquired(self.resource, grant, self.waited_ms)

    def _undo(self) -> None:
        """An exception has ended the acquisition, perhaps after `_accept_grant`."""
        self._grant = None
        held_leases.remove(self)

    def _watch(self) -> None:
        """Notice the end of the lease at its deadline, so that a loss is reported also without renewal."""
        if not self._is_renewed and not self._is_watched:
            self._parts.renewal.add(self, self._held().deadline_ms)
            self._is_watched = True

    def _extending(self, ttl_ms: int, wait: Wait) -> Steps[None]:
        grant = self._held()
        self.ensure_valid()
        result = yield from protocol.extend(grant, ttl_ms, wait)
        # A caller that was interrupted can have released the lease meanwhile.
        self._held()
        if isinstance(result, Grant):
            self._grant = result
            self._context.event_log.extended(self.resource, result)
            return
        now = now_ms()
        is_line_due = now >= self._next_line_ms
        if is_line_due:
            self._next_line_ms = now + _AGAIN_MS
        self._context.event_log.not_extended(self.resource, grant, result, is_line_due=is_line_due)
        if result.no_quorum:
            raise failures.unavailable(self._context.nodes, self.resource, result.round_result)
        if result.round_result.denied >= result.round_result.quorum:
            self._declare_lost("a quorum of nodes no longer has it")
        raise LockLost(self.resource, self._lost or "it could not be extended on a quorum of nodes")

    def _renewal(self, connections: ConnectionSet | None) -> Steps[int | None]:
        """A renewal, as rounds that many leases can share.

        The driver already holds the connections, so the renewal does not wait if other code uses the lease.

        Returns:
            The time of the next renewal; None if the lease needs no renewal any more.
        """
        turn = self._mutex.turn()
        if turn is None:
            return now_ms() + _BUSY_MS
        with turn:
            self._connections = connections
            try:
                due_ms = yield from self._renewing()
                if self._is_leaving:
                    yield from self._releasing()
            except (LockLost, QuorumUnavailable):
                due_ms = now_ms() + retry_ms(self._remaining_ms())
            except NotHeld:
                return None
        return due_ms if self._grant is not None and not self._lost else None

    def _renewing(self) -> Steps[int]:
        now, deadline_ms, ttl_ms = now_ms(), self._held().deadline_ms, self.ttl_ms
        if now >= deadline_ms and (self._is_renewed or not self._is_leaving):
            why = "it could not be renewed in time" if self._is_renewed else "its time was over"
            self._declare_lost(self._stopped or why)
        if not self._is_renewed:
            return deadline_ms
        if self._max_hold_ms is not None:
            left_ms = self._acquired_ms + self._max_hold_ms - now
            if deadline_of(left_ms, now) <= deadline_ms:
                self._stopped = "max_hold is over"
                return deadline_ms
            ttl_ms = min(ttl_ms, left_ms)
        if not self._is_leaving:
            # The replies of all nodes show where a key is missing. With half of the lease over there is no time for
            # that: a silent node costs a node timeout on each set of connections.
            is_late = deadline_ms - now < self.ttl_ms // 2
            yield from self._extending(ttl_ms, Wait.DECIDED if is_late else Wait.ALL)
        return now + renewal_ms(ttl_ms)

    def _declare_lost(self, why: str) -> None:
        if not self._lost and self._grant is not None:
            self._lost, self._is_loss_reported = why, False
            self._context.event_log.lost(self.resource, self._grant, why)

    def _report_loss(self) -> None:
        """Call `on_lost` once if the lease is known to be lost, and the `on_lost` of each re-entrant block."""
        if self._is_loss_reported:
            return
        self._is_loss_reported = True
        for lease in (self, *self._live_entries()):
            self._tell(lease)

    def _tell(self, lease: LeaseSteps) -> None:
        """Report the loss to this lease, or to a block of this lease."""
        if lease._on_lost is not None:
            on_lost = functools.partial(lease._on_lost, lease)
            self._parts.call(self.resource, on_lost, lease._caller_context or Context())
            lease._caller_context = None

    def _releasing(self) -> Steps[Outcome]:
        grant = self._held()
        outcome = yield from protocol.release(grant)
        self._grant = None
        self._ended(grant, outcome)
        return outcome

    def _ended(self, grant: Grant, outcome: Outcome) -> None:
        self._outcome, self._caller_context, self._is_watched = outcome, None, False
        self._context.event_log.released(self.resource, grant, outcome)

    def _held(self) -> Grant:
        if self._grant is None:
            raise NotHeld(f"lock {self.resource!r} is not held here", self.resource)
        if self._pid != _process.pid():
            raise NotHeld(
                f"lock {self.resource!r} belongs to the process that took it, not to its child", self.resource
            )
        return self._grant

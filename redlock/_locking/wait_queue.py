"""Wait queue: a waiter blocks on one node, and each release wakes the first waiter.

Invariants:
1. Wake-ups are hints: a lost wake-up costs time, never safety. The client's clock ends each wait, because a server
   checks for expired blocking reads only ten times a second.
2. A wait has a separate connection, which is kept for the next wait. The blocking read keeps its place in the server's
   queue while its client makes an attempt. A connection whose read has no reply at the end is closed.
3. A client that recently waited for a resource joins the queue before its first attempt, and asks the nodes after a
   wake-up or a short time. Otherwise each hand-over of a contended lock would begin with five denials. Each release
   leaves a wake-up, so a client without waiters before it finds a wake-up at once, or waits a second if it was lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redlock._clock import monotonic, now_ms
from redlock._core.backoff import early_retry_ms, first_attempt_ms, pause_ms, sleep_ms
from redlock._locking.effects import AwaitTurn, Borrow, PassOn, Receive, Send, Sleep
from redlock._locking.waiter_pool import NODE_ERRORS
from redlock._transport import codec, node_info
from redlock._transport.codec import pack
from redlock._transport.node import UnsuitableNode, describe_failure, refuse
from redlock._transport.reply_reader import LongReply, ReplyError
from redlock._transport.socket_errors import NoReply

if TYPE_CHECKING:
    from redlock._core.commands import Names
    from redlock._core.votes import Refusal
    from redlock._locking.effects import Effects
    from redlock._locking.local_wait_queue import Place
    from redlock._locking.waiter_pool import WaitingConnections
    from redlock._transport.node import Node

_LEAST_WAIT_SECONDS = 0.001
READ_SECONDS = 2
"""The longest blocking read; a client that waits longer reads again."""
_MOST_EARLY = 6
_MOST_VAIN = 3
"""The wake-ups in vain during one lease that can be honest: left by an earlier release, or by an attempt that lost."""
_REST_MS = 100
_WAKE = codec.Script.load("wake")


class QueuedWaiter:
    """The waits between the attempts of one acquisition: its place in the queue, and its wake-up.

    A wake-up is valid for `wake_ms`, the TTL of the lease.
    """

    def __init__(self, pool: WaitingConnections[Any], names: Names, wake_ms: int) -> None:
        self._pool, self._names, self._wake_ms = pool, names, wake_ms
        self._woken_by = ""
        self._early_attempts = 0
        self._vain = 0
        """The number of wake-ups in a row after which the same holder still had the lock."""
        self._vain_holder: str | None = None
        self._has_waited = False
        self._began_ms = 0
        self._node: Node
        """Where this waiter has dialled last."""
        self._connected: Any = None
        self._is_reading = False
        self._sent_at = 0.0
        self._place: Place | None = None

    @property
    def is_woken(self) -> bool:
        """Whether a wake-up has come that no attempt has used yet."""
        return bool(self._woken_by)

    def sleep_ms(self, refusal: Refusal, lost_rounds: int, chance: float) -> tuple[int, bool]:
        """The sleep after a refused attempt, and whether a wake-up can end the sleep."""
        if self.is_woken and self._early_attempts < _MOST_EARLY:
            # The wake-up arrived before the release reached the other nodes: the lock will be free in a moment.
            self._early_attempts += 1
            return early_retry_ms(self._early_attempts, chance), False
        sleep = sleep_ms(refusal, chance)
        if sleep is None:
            return pause_ms(refusal, lost_rounds, chance), False
        if self.is_woken:
            holder = refusal.round_result.holder
            self._vain = self._vain + 1 if holder and holder == self._vain_holder else 1
            self._vain_holder = holder
        return sleep, True

    def queue_first(self, most_ms: int) -> Effects[None]:
        """Wait for the turn in the local queue and for a wake-up before the first attempt, at most `most_ms`."""
        until_ms, last_wait_ms = now_ms() + most_ms, self._pool.last_wait_ms(self._names)
        yield from self.join_local_queue(most_ms)
        length_ms = max(0, min(first_attempt_ms(last_wait_ms, self._wake_ms), until_ms - now_ms()))
        yield from self.wait(length_ms, can_wake=True)

    def join_local_queue(self, most_ms: int) -> Effects[bool]:
        """Wait for the turn in the local queue; True if that took time, so the lock may be free now."""
        if self._place is None:
            self._place = self._pool.local_queue.join(self._names)
        if self._place.is_first:
            return False
        yield AwaitTurn(self._place, most_ms / 1000)
        return True

    def wait(self, length_ms: int, *, can_wake: bool) -> Effects[None]:
        """Sleep for this long, or until a wake-up if a wake-up can come. No request to the node lasts longer."""
        if not can_wake:
            yield Sleep(length_ms / 1000)
            return
        keys, until = self._pool.codec.wake_keys(self._names), monotonic() + length_ms / 1000
        if self.is_woken and len(keys) > 1:
            # Another resource of the set is taken: pass this wake-up on, and wait for the other resources.
            keys.remove(self._woken_by)
            yield from self._return_wake_up(until)
        self._woken_by, self._early_attempts = "", 0
        self._began_ms = self._began_ms or now_ms()
        began = monotonic()
        try:
            if self._rest_ms:
                yield Sleep(min(self._rest_ms / 1000, max(0.0, until - monotonic())))
            yield from self._until_woken(keys, until)
        finally:
            self._has_waited = monotonic() - began > _LEAST_WAIT_SECONDS

    def _until_woken(self, keys: list[str], until: float) -> Effects[None]:
        while not self.is_woken and until > monotonic():
            try:
                self._woken_by = yield from self._read(keys, until)
            except NODE_ERRORS as exc:
                left = max(0.0, until - monotonic())
                # A request that ended with the wait had too little time for a failure.
                if left or not isinstance(exc, NoReply):
                    tell = self._node.mark_down if self._connected is None else self._node.refuse_wait
                    tell(describe_failure(exc, self._node.timeout_ms), now_ms())
                self._drop()
                yield Sleep(min(0.01, left))

    def _read(self, keys: list[str], until: float) -> Effects[str]:
        """The key of a wake-up; empty if the blocking read ended without a wake-up."""
        if self._connected is None:
            node, left = self._pool.node_to_try(self._names, now_ms()), max(0.0, until - monotonic())
            if node is None:
                yield Sleep(left)
                return ""
            self._node = node
            self._connected = yield Borrow(node, left)
            if self._connected is None:
                return ""
        if not self._is_reading:
            self._is_reading = True
            self._sent_at = monotonic()
            yield Send(self._connected, pack("BLPOP", *keys, str(READ_SECONDS)), self._deadline(until))
        try:
            reply = yield Receive(self._connected, until)
        except NoReply:
            return ""
        except LongReply:
            # The rest of the reply is on its way, so the connection serves no other request.
            self._drop()
            return (yield from self._sleep_through(until))
        self._is_reading = False
        if isinstance(reply, ReplyError) and str(reply).startswith("WRONGTYPE"):
            return (yield from self._sleep_through(until))
        if reply is None and monotonic() - self._sent_at < READ_SECONDS / 2:
            # Another read would end at once as well, in an endless loop.
            raise UnsuitableNode("does not wait as a Redis server does")
        return self._wake_key(reply)

    @staticmethod
    def _sleep_through(until: float) -> Effects[str]:
        """Wait without wake-ups: a key is at fault, and not the node, at which other resources are waited for too."""
        yield Sleep(max(0.0, until - monotonic()))
        return ""

    def _return_wake_up(self, until: float) -> Effects[None]:
        """Pass this wake-up on. Unlike `PassOn`, this keeps the connection for the next read."""
        try:
            deadline = self._deadline(until)
            yield Send(self._connected, self._pass_on_words(), deadline)
            refuse((yield Receive(self._connected, deadline)))
        except NODE_ERRORS:
            self._drop()
        except BaseException:
            # After half of the command, or before its reply, the connection serves no other request.
            self._drop()
            raise

    def _deadline(self, until: float) -> float:
        """The deadline of a request: in a node timeout, and never beyond the end of the wait."""
        return min(until, monotonic() + self._node.timeout_ms / 1000)

    def return_connection(self, *, acquired: bool) -> Effects[None]:
        """Give the connection back. A waiter that stops without the lease passes its wake-up on to the next waiter."""
        connected = self._connected
        if connected is None:
            return
        try:
            if self._is_reading:
                self._woken_by = self._wake_key((yield Receive(connected, None)))
                self._is_reading = False
        except NODE_ERRORS:
            return
        self._connected = None
        if self.is_woken and not acquired:
            yield PassOn(self._node, connected, self._pass_on_words())
        else:
            self._pool.give_back(self._node, connected)

    def leave(self) -> None:
        """Leave the queue, and close a connection that was not given back."""
        try:
            self._drop()
        finally:
            # An unused wake-up stays on the node for the same time.
            waited_ms = max(1, now_ms() - self._began_ms) if self._has_waited else 0
            self._pool.remember(self._names, waited_ms, self._wake_ms)
            if self._place is not None:
                self._place.leave()

    def _drop(self) -> None:
        connected, self._connected, self._is_reading = self._connected, None, False
        if connected is not None:
            connected.close()

    @property
    def _rest_ms(self) -> int:
        """How long no wake-up counts: a node that wakes without a release must not set the rate of the attempts."""
        return 0 if self._vain <= _MOST_VAIN else _REST_MS << min(self._vain - _MOST_VAIN - 1, 4)

    def _pass_on_words(self) -> bytes:
        return pack("EVAL", _WAKE.source, "1", self._woken_by, str(self._wake_ms))

    def _wake_key(self, reply: object) -> str:
        """The key in a reply to the blocking read; empty if the read ended without a wake-up."""
        refuse(reply)
        keys = [""] if reply is None else self._pool.codec.wake_keys(self._names)
        key = node_info.text(reply[0]) if isinstance(reply, list) and reply else ""
        if key not in keys:
            raise UnsuitableNode("answered something that is no wake-up")
        return key

"""Mutants in the driver for asyncio; see `mutants`. Schedules of clients for asyncio kill them, or a named test."""

from __future__ import annotations

from tests.sim.mutant_list import MutantList

LIST = MutantList()
_driver, _lease, _parts, _renewal, _scope, _waiters, _steps = LIST.files(
    *("asyncio/_driver.py", "asyncio/lease.py", "asyncio/_loop_parts.py", "asyncio/_renewal.py"),
    *("asyncio/_cancel_scope.py", "asyncio/_waiters.py", "_locking/lease_steps.py"),
)
_rounds, _sockets, _exchange = LIST.files(
    "_transport/asyncio.py", "_transport/loop_sockets.py", "_transport/loop_exchange.py"
)
DIRECTED = "tests/sim/test_directed_asyncio.py::test_"

# Cancellation.
_driver("a cancelled acquire is not undone", "effect = steps.throw(exc)", "raise")
_driver.without("an undo command is not sent", "self._connections.post(effect)")
LIST.add(
    "a task keeps its place at the nodes",
    _driver.piece("            self.leave_nodes()\n            steps.close()", "            steps.close()"),
    _lease.piece("            driver.leave_nodes()\n", "            pass\n"),
)
_driver.without("a place in the window is never free again", "self._window.leave(self, self._names)")
_driver.without("a place that comes after the cancellation is lost", "self._waiting.pop(attempt, None)")
_waiters.without(
    "a cancelled waiter drops its wake-up",
    "connection.send(words, is_answer_ignored=True)",
    f"{DIRECTED}a_cancelled_waiter_holds_up_no_other_process",
)
_lease(
    "a release is not shielded",
    "await asyncio.wait({self._release})",
    "await self._release",
    f"{DIRECTED}a_cancelled_release_goes_on_to_its_outcome",
)
_lease.without(
    "the outcome of a cancelled release is lost",
    "self._releaser = weakref.ref(held_leases.owner())",
    f"{DIRECTED}a_repeated_release_gets_the_outcome_at_any_time",
)
_lease(
    "a release can be cancelled before it is sent",
    "            self._send_release()\n        self._releaser",
    "            await asyncio.sleep(0)\n            self._send_release()\n        self._releaser",
)
_scope("a cancellation from outside is swallowed", "return alone and is_cancelled and", "return is_cancelled and")
_exchange(
    "a dial is not abandoned with its waiter",
    "        finally:\n            pending.abandon()",
    "        finally:\n            pass",
)
# The end of a lease.
_steps.without(
    "renewal is not started",
    "self._parts.renewal.add(self, self._acquired_ms + renewal_ms(grant.deadline_ms - self._acquired_ms))",
)
_renewal(
    "a lease is renewed once",
    "                self._schedule.renewed(lease, None if future.cancelled() else future.result())\n            self._set_timer()",
    "                self._schedule.renewed(lease, None if future.cancelled() else future.result())",
)
_steps(
    "the first renewal may come after the end of the lease",
    "renewal_ms(grant.deadline_ms - self._acquired_ms)",
    "renewal_ms(self.ttl_ms)",
    f"{DIRECTED}a_lease_with_little_time_left_is_renewed_in_time",
)
_steps.without("the end of a lease without renewal is not noticed", "self._watch()")
_lease(
    "the end of the lease of an inner block is not noticed",
    "return self._on_lost is not None or self._scope is not None",
    "return self._on_lost is not None",
    f"{DIRECTED}an_inner_block_is_cancelled_at_the_end_of_its_lease",
)
_lease.without("a lost lease cancels no block", "lease._scope.cancel()")
_lease(
    "a release lets an extension go on",
    "        self._stop_step()\n        if connections",
    "        if connections",
    f"{DIRECTED}no_repair_of_an_extension_follows_the_release",
)
_steps(
    "a blocked loop does not see the end of its lease",
    "max(0, self._held().deadline_ms - now_ms()) if not self._lost else 0",
    "self.ttl_ms if not self._lost and self._held() else 0",
)
# Owners.
_parts.without("a background task has no owner", "tasks.add(task)")
_renewal("a timer outlives its client", "        self._is_closed = True\n        self._stop_timer()\n", "")
_sockets.without("a reader outlives its connection", "self._loop.remove_reader(exchange.sock)")
_exchange(
    "a waiting connection keeps its reader",
    "            self._loop.remove_reader(self._exchange.sock)\n        self._failure =",
    "            pass\n        self._failure =",
)
# Rounds.
_rounds("a round has no deadline", "(round_.command, self._start_timer)", "(round_.command)")
_sockets.without("bytes that the system did not accept are lost", "connection.keep(words, sent)")
_sockets.without(
    "a blocked connection is not written again", "self._loop.add_writer(sock, self._on_writable, connection)"
)
_exchange.without(
    "the next task in the queue is not told",
    "self._future.set_result(None)",
    f"{DIRECTED}the_waiting_tasks_of_a_loop_take_turns_at_once",
)

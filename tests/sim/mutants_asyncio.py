"""Mutants in the driver for asyncio; see `mutants`. Schedules of clients for asyncio kill them, or a named test."""

from __future__ import annotations

from tests.sim.mutant_list import MutantList

LIST = MutantList()
_bug = LIST.add

DRIVER, LEASE, PARTS, RENEWAL = (
    "asyncio/_driver.py",
    "asyncio/lease.py",
    "asyncio/_loop_parts.py",
    "asyncio/_renewal.py",
)
SCOPE, WAITERS, INNER = "asyncio/_cancel_scope.py", "asyncio/_waiters.py", "asyncio/_inner_lease.py"
ROUNDS, SOCKETS, EXCHANGE = "_transport/asyncio.py", "_transport/loop_sockets.py", "_transport/loop_exchange.py"
DIRECTED = "tests/sim/test_directed_asyncio.py::test_"


# Cancellation.
_bug("a cancelled acquire is not undone", DRIVER, "effect = steps.throw(exc)", "raise")
_bug("an undo command is not sent", DRIVER, "                self._connections.post(effect)\n", "")
LIST.add_pieces(
    "a task keeps its place at the nodes",
    (DRIVER, "            self.leave_nodes()\n            steps.close()", "            steps.close()"),
    (LEASE, "            driver.leave_nodes()\n", "            pass\n"),
)
_bug("a place in the window is never free again", DRIVER, "        self._window.leave(self, self._names)\n", "")
_bug("a place that comes after the cancellation is lost", DRIVER, "        self._waiting.pop(attempt, None)\n", "")
_bug(
    "a cancelled waiter drops its wake-up",
    WAITERS,
    "            connection.send(words, is_answer_ignored=True)\n",
    "            pass\n",
    f"{DIRECTED}a_cancelled_waiter_holds_up_no_other_process",
)
_bug(
    "a release is not shielded",
    LEASE,
    "await asyncio.wait({self._release})",
    "await self._release",
    f"{DIRECTED}a_cancelled_release_goes_on_to_its_outcome",
)
_bug(
    "the outcome of a cancelled release is lost",
    LEASE,
    "            self._releaser = weakref.ref(held_leases.owner())\n",
    "            pass\n",
    f"{DIRECTED}a_repeated_release_gets_the_outcome_at_any_time",
)
_bug(
    "a release can be cancelled before it is sent",
    LEASE,
    "            self._send_release()\n        self._releaser",
    "            await asyncio.sleep(0)\n            self._send_release()\n        self._releaser",
)
_bug(
    "a cancellation from outside is swallowed",
    SCOPE,
    "return alone and is_cancelled and",
    "return is_cancelled and",
)
_bug(
    "a dial is not abandoned with its waiter",
    EXCHANGE,
    "        finally:\n            pending.abandon()",
    "        finally:\n            pass",
)
# The end of a lease.
_bug(
    "renewal is not started",
    LEASE,
    "                self._parts.renewal.add(self, self._acquired_ms + renewal_ms(grant.deadline_ms - self._acquired_ms))\n",
    "                pass\n",
)
_bug(
    "a lease is renewed once",
    RENEWAL,
    "                self._schedule.renewed(lease, None if future.cancelled() else future.result())\n            self._set_timer()",
    "                self._schedule.renewed(lease, None if future.cancelled() else future.result())",
)
_bug(
    "the first renewal may come after the end of the lease",
    LEASE,
    "renewal_ms(grant.deadline_ms - self._acquired_ms)",
    "renewal_ms(self.ttl_ms)",
    f"{DIRECTED}a_lease_with_little_time_left_is_renewed_in_time",
)
_bug(
    "the end of a lease without renewal is not noticed",
    LEASE,
    "                self._watch()\n",
    "                pass\n",
)
_bug(
    "the end of the lease of an inner block is not noticed",
    INNER,
    "            self._outer._watch()\n",
    "            pass\n",
    f"{DIRECTED}an_inner_block_is_cancelled_at_the_end_of_its_lease",
)
_bug("a lost lease cancels no block", LEASE, "            lease._scope.cancel()\n", "            pass\n")
_bug(
    "a release lets an extension go on",
    LEASE,
    "        self._stop_step()\n        if connections",
    "        if connections",
    f"{DIRECTED}no_repair_of_an_extension_follows_the_release",
)
_bug(
    "a blocked loop does not see the end of its lease",
    "_locking/lease_steps.py",
    "max(0, self._held().deadline_ms - now_ms()) if not self._lost else 0",
    "self.ttl_ms if not self._lost and self._held() else 0",
)
# Owners.
_bug("a background task has no owner", PARTS, "            tasks.add(task)\n", "            pass\n")
_bug("a timer outlives its client", RENEWAL, "        self._is_closed = True\n        self._stop_timer()\n", "")
_bug("a reader outlives its connection", SOCKETS, "                self._loop.remove_reader(exchange.sock)\n", "")
_bug(
    "a waiting connection keeps its reader",
    EXCHANGE,
    "            self._loop.remove_reader(self._exchange.sock)\n        self._failure =",
    "            pass\n        self._failure =",
)
# Rounds.
_bug("a round has no deadline", ROUNDS, "(round_.command, self._start_timer)", "(round_.command)")
_bug("bytes that the system did not accept are lost", SOCKETS, "            connection.keep(words, sent)\n", "")
_bug(
    "a blocked connection is not written again",
    SOCKETS,
    "                self._loop.add_writer(sock, self._on_writable, connection)\n",
    "                pass\n",
)
_bug(
    "the next task in the queue is not told",
    WAITERS,
    "            self._future.set_result(None)\n",
    "            pass\n",
    f"{DIRECTED}the_waiting_tasks_of_a_loop_take_turns_at_once",
)

"""Mutants in transport, waiting, asynchronous releases and the reset after a fork; see `mutants`.

Each is killed by schedules, or by the test that stands beside its name.
"""

from __future__ import annotations

from tests.sim.mutant_list import MutantList

LIST = MutantList()
_bug = LIST.add

CONNECTION, NODES, ROUNDS = ("_transport/connection.py", "_transport/connected_nodes.py", "_transport/connections.py")
RELEASES, HEALTH, SOCKETS, THREADS = (
    "_transport/pending_releases.py",
    "_transport/node_health.py",
    "_transport/sockets.py",
    "_transport/threads.py",
)
POOL, CHECKS = "_transport/pool.py", "_transport/vote_checks.py"
ACQUISITION, WAIT, WAITERS, LOCAL = (
    "_locking/acquisition.py",
    "_locking/wait_queue.py",
    "_locking/waiter_pool.py",
    "_locking/local_wait_queue.py",
)
TIMEOUT, CONTEXT = "_locking/acquire_timeout.py", "_locking/context.py"
UNIT, DIRECTED, BOUNDS, FORK = (
    "tests/unit/test_",
    "tests/sim/test_directed_client.py::test_",
    "tests/sim/test_time_bounds.py::test_",
    "tests/sim/test_fork.py::test_",
)


# One connection.
_bug("a reply belongs to the youngest command", ROUNDS, "pending.popleft() for", "pending.pop() for")
_bug(
    "a single grant belongs to the youngest command",
    ROUNDS,
    "pending.popleft(), vote",
    "pending.pop(), vote",
    f"{UNIT}connections.py::test_a_late_reply_counts_for_no_other_round",
)
_bug(
    "a grant inside another reply is a vote",
    ROUNDS,
    "votes = votes_in(data) if reader.is_between else ()",
    "votes = votes_in(data)",
    f"{UNIT}connections.py::test_a_grant_inside_another_reply_is_no_vote",
)
_bug("a part of a command is sent twice", CONNECTION, "        del rest[:sent]\n", "")
_bug("a part of a command is never sent", CONNECTION, "        del rest[:sent]\n", "        rest.clear()\n")
_bug("a blocked send counts as sent", SOCKETS, "                sent = 0\n", "                sent = len(words)\n")
_bug(
    "releases that were held back are lost with the next command",
    CONNECTION,
    "            self.outbox += self.held_back + words\n",
    "            self.outbox += words\n",
    f"{UNIT}connections.py::test_a_held_back_command_goes_out_with_the_next_command",
)
_bug(
    "a flush sends nothing",
    CONNECTION,
    "            self.outbox += self.held_back\n",
    "",
    f"{DIRECTED}releases_in_quick_succession_reach_the_nodes_at_once",
)
_bug(
    "a new connection goes on with the old parser",
    CONNECTION,
    "        self.reader = ReplyReader()\n        self.suspect_since_ms, self.reason",
    "        self.suspect_since_ms, self.reason",
)
_bug("replies of a lost connection are still awaited", CONNECTION, "        self.pending.clear()\n", "")
_bug(
    "bytes of a lost connection go out on the next one",
    CONNECTION,
    'self.outbox, self.held_back, self.is_blocked, self.is_sending = b"", b"", False, False',
    "self.is_blocked = self.is_sending = False",
    f"{UNIT}connected_nodes.py::test_a_lost_connection_drops_its_bytes_and_what_it_held_back",
)
# The connections of a set.
_bug(
    "the cancel of an interrupted attempt follows half of a command",
    NODES,
    "if one.is_blocked or one.is_sending:",
    "if one.is_blocked:",
    f"{UNIT}connected_nodes.py::test_requests_that_were_not_sent_are_dropped",
)
_bug(
    "each round waits for the dial of a node that is down",
    NODES,
    "if patient and not one.node.error and",
    "if patient and",
    f"{BOUNDS}a_bad_minority_costs_one_node_timeout_once",
)
_bug(
    "each round waits for the dial of a node that ends its connections",
    NODES,
    " and (is_few or not one.is_unsteady)]",
    "]",
    f"{UNIT}connected_nodes.py::test_a_connection_that_never_lasts_holds_up_no_round",
)
_bug(
    "an overdue dial is waited for again",
    NODES,
    '            one.node.mark_down(f"no answer within {self.timeout_ms} ms", now_ms)\n',
    "            pass\n",
    f"{UNIT}connected_nodes.py::test_an_overdue_dial_is_waited_for_once",
)
_bug(
    "a failed dial is never repeated",
    NODES,
    "connection.is_dialling, connection.reason = False, reason",
    "connection.reason = reason",
)
_bug(
    "a suspect node keeps its connection for ever",
    NODES,
    "overdue = now_ms - one.suspect_since_ms > _SUSPECT_MS",
    "overdue = False",
    f"{UNIT}connections.py::test_a_suspect_node_loses_its_connection_after_a_second",
)
_bug(
    "without a quorum silent connections are kept",
    NODES,
    "if overdue or renews:",
    "if overdue:",
    f"{DIRECTED}a_connection_that_a_firewall_has_forgotten_is_renewed",
)
_bug(
    "a round waits for a connection that has ended",
    NODES,
    "            tally.record_silence(connection.place, reason)\n",
    "",
    f"{UNIT}connections.py::test_a_reset_inside_a_reply_is_a_vote_less",
)
_bug(
    "without a quorum no round waits for dials",
    NODES,
    "limit_ms = max(limit_ms, until_ms - self.timeout_ms)",
    "pass",
    f"{UNIT}connected_nodes.py::test_without_a_quorum_a_round_waits_for_dials",
)
_bug(
    "addresses of the same server are not noticed",
    NODES,
    "        vote_checks.find_duplicates(self.all, connection.dialled_ms)\n",
    "",
    f"{UNIT}connected_nodes.py::test_addresses_of_the_same_server_cast_one_vote",
)
_bug(
    "a rejection is never cleared",
    NODES,
    "            connection.refusal = None\n",
    "            pass\n",
    f"{UNIT}connected_nodes.py::test_a_rejection_by_a_minority_costs_its_votes_only",
)
_bug(
    "the waiting node gets a release first",
    NODES,
    "for step in range(1, count + 1)]",
    "for step in range(count)]",
    f"{UNIT}wait_queue.py::test_a_release_is_sent_last_to_the_node_of_the_waiters",
)
# Rounds.
_bug("lost scripts are never loaded again", ROUNDS, 'startswith("NOSCRIPT")', 'startswith("NEVER")')
_bug(
    "a command is not repeated after its scripts",
    ROUNDS,
    "        if not tally.closed or type(tally.command) is Release:\n            words",
    "        if False:\n            words",
    f"{DIRECTED}lost_scripts_cost_one_round_trip",
)
_bug(
    "a command of a closed round is repeated after its scripts",
    ROUNDS,
    "        if not tally.closed or type(tally.command) is Release:\n            words",
    "        if True:\n            words",
    f"{UNIT}connections.py::test_a_command_of_a_closed_round_is_not_repeated",
)
_bug(
    "a release of a closed round is not repeated after its scripts",
    ROUNDS,
    "if not tally.closed or type(tally.command) is Release:",
    "if not tally.closed:",
    f"{UNIT}connections.py::test_a_release_is_repeated_after_the_end_of_its_round",
)
_bug(
    "a node is suspect at the limit of a release",
    ROUNDS,
    "if now_ms - tally.sent_ms >= self.timeout_ms:",
    "if True:",
    f"{UNIT}connections.py::test_a_release_has_a_shorter_limit_and_suspects_nobody",
)
_bug(
    "no node is ever suspect",
    ROUNDS,
    "if now_ms - tally.sent_ms >= self.timeout_ms:",
    "if False:",
    f"{UNIT}connections.py::test_a_suspect_node_loses_its_connection_after_a_second",
)
_bug(
    "a client that a quorum rejects asks for votes",
    ROUNDS,
    "            elif barred:\n",
    "            elif False:\n",
    f"{UNIT}connected_nodes.py::test_a_client_that_a_quorum_rejects_asks_for_no_vote",
)
_bug(
    "a reply without a command is accepted",
    ROUNDS,
    "if not data or len(replies) > len(pending):",
    "if not data:",
    f"{UNIT}connections.py::test_bytes_that_are_no_reply_end_the_connection",
)
_bug(
    "a closed connection is not noticed",
    ROUNDS,
    "if not data or len(replies) > len(pending):",
    "if len(replies) > len(pending):",
)
_bug(
    "a release waits as long as other rounds",
    ROUNDS,
    "min(self.timeout_ms, RELEASE_MS) if type(tally.command) is Release else self.timeout_ms",
    "self.timeout_ms",
    f"{UNIT}connections.py::test_a_release_has_a_shorter_limit_and_suspects_nobody",
)
_bug(
    "a server with two addresses votes twice",
    CHECKS,
    "    for duplicate in connection.duplicates:\n        if tally",
    "    for duplicate in ():\n        if tally",
    f"{UNIT}connected_nodes.py::test_addresses_of_the_same_server_cast_one_vote",
)
_bug(
    "a single node chooses the token",
    CHECKS,
    "    if is_doubted and vote.kind is Kind.GRANTED:\n",
    "    if False:\n",
    f"{UNIT}connections_edges.py::test_no_single_node_chooses_the_token",
)
_bug(
    "a node with an implausible token has a vote",
    CHECKS,
    "vote.fence > (vote.time_ms + FENCE_AHEAD_MS) * 1_000",
    "False",
    f"{UNIT}connections_edges.py::test_a_token_beyond_the_own_clock_of_a_node_has_no_vote",
)
_bug(
    "the largest doubted tokens count first",
    CHECKS,
    "key=lambda doubted: doubted[1].fence)",
    "key=lambda doubted: -doubted[1].fence)",
    f"{UNIT}connections_edges.py::test_the_smallest_tokens_above_the_proposal_count",
)
_bug(
    "a doubted token is a second vote of a server",
    CHECKS,
    "tally.cast(place, counted_once(connections[place], tally, vote))",
    "tally.cast(place, vote)",
    f"{UNIT}connections_edges.py::test_a_token_kept_back_is_no_second_vote_of_a_server",
)
_bug("a node that was down is never dialled again", HEALTH, "self._takes_turn(_DIAL, now_ms, _RETRY_LAST_MS)", "False")
_bug(
    "a frozen process counts no reply",
    THREADS,
    "            now = self._pump(0)\n            if not tally.is_over:\n",
    "            if True:\n",
    f"{DIRECTED}a_process_stopped_at_its_clock_counts_the_replies",
)
_bug(
    "the round of an interrupted attempt stays open",
    THREADS,
    "            # An exception may end the wait: then no command of this round may be sent again after the cancel.\n            tally.closed = True\n",
    "            pass\n",
    f"{DIRECTED}an_interrupted_acquire_is_not_repeated_with_its_scripts",
)
# Asynchronous releases.
_bug(
    "a full buffer of releases is not sent",
    RELEASES,
    "self.held_back >= _MOST_HELD_BACK or ",
    "",
    f"{UNIT}pending_releases.py::test_it_is_time_to_send_after_2_ms_or_64_releases",
)
_bug(
    "an old buffer of releases is not sent",
    RELEASES,
    " or now_ms - self._held_since_ms > _LONGEST_HELD_BACK_MS",
    "",
    f"{UNIT}pending_releases.py::test_it_is_time_to_send_after_2_ms_or_64_releases",
)
_bug(
    "a release without replies has no end",
    RELEASES,
    " or now_ms - tally.sent_ms > RELEASE_MS",
    "",
    f"{UNIT}pending_releases.py::test_outcomes_are_reported_once_and_in_order",
)
_bug(
    "the outcome of a release is reported to nobody",
    RELEASES,
    "                done(stop.value)\n",
    "                pass\n",
    f"{UNIT}pending_releases.py::test_outcomes_are_reported_once_and_in_order",
)
_bug(
    "the time of a held release counts from its call",
    RELEASES,
    "                pending.tally.sent_ms = now_ms\n",
    "                pass\n",
    f"{UNIT}pending_releases.py::test_the_time_of_a_held_back_release_counts_from_its_send",
)
_bug(
    "a round to other nodes leaves releases behind",
    RELEASES,
    "            self.held_back = 0\n            for connection in self._connections:\n                connection.flush()\n",
    "            self.held_back = 0\n",
    f"{UNIT}pending_releases.py::test_a_round_to_no_node_sends_what_was_held_back",
)
_bug(
    "a renewal prolongs the time of a release",
    RELEASES,
    "        if held:\n            self._held_since_ms",
    "        if True:\n            self._held_since_ms",
    f"{UNIT}pending_releases.py::test_renewals_do_not_prolong_the_time_of_a_release",
)
# The acquire loop.
_bug(
    "an exception of the application counts as a failure of a node",
    WAITERS,
    "NODE_ERRORS = (ConnectionFailed,",
    "NODE_ERRORS = (OSError, ConnectionFailed,",
    f"{UNIT}acquisition.py::test_an_exception_in_a_wait_leaves_the_queue_at_once",
)
_bug(
    "an interrupted attempt is not cancelled",
    ACQUISITION,
    "            with contextlib.suppress(Exception):\n                yield from protocol.cancel(attempt, attempt.ttl_ms)\n",
    "",
    f"{DIRECTED}an_interrupted_acquire_leaves_no_key",
)
_bug(
    "an interrupted grant is not undone",
    ACQUISITION,
    "        except BaseException:\n            self._lease._undo()\n",
    "        except BaseException:\n",
    f"{DIRECTED}an_attempt_that_a_lease_has_lost_is_undone",
)
_bug(
    "a lease that is over is returned",
    ACQUISITION,
    "                if now >= result.deadline_ms:\n",
    "                if False:\n",
    f"{UNIT}acquisition_edges.py::test_a_grant_that_is_over_by_now_is_cancelled",
)
_bug(
    "a reservation for a dead waiter refuses a single attempt",
    ACQUISITION,
    "if self._ignores_reservations or not (refusal.round_result.is_only_reserved and is_in_time):",
    "if True:",
    f"{UNIT}acquisition.py::test_a_reserved_lock_is_taken_after_the_reservation",
)
_bug(
    "a reservation is waited for beyond the limit",
    ACQUISITION,
    "until_ms is None or now_ms() + reserve_ms < until_ms",
    "True",
    f"{UNIT}acquisition_edges.py::test_a_reservation_is_waited_for_within_two_node_timeouts",
)
_bug(
    "the last attempt has no deadline",
    TIMEOUT,
    "self.started_ms + self._length_ms + 2 * node_timeout_ms",
    "self.started_ms + 60_000 + 2 * node_timeout_ms",
    f"{UNIT}acquisition.py::test_an_attempt_ends_two_node_timeouts_after_the_limit",
)
_bug(
    "a loop without a limit never gives up",
    TIMEOUT,
    "self._heard_ms + self._ttl_ms - now_ms() if refusal.no_quorum else None",
    "None",
    f"{UNIT}acquire_timeout.py",
)
_bug(
    "the end of the lease of an inner block is not noticed by a thread",
    "_locking/lease_entry.py",
    "            self._outer._watch()\n",
    "            pass\n",
    f"{DIRECTED}an_inner_block_hears_of_the_end_of_its_lease",
)
# Waiting.
_bug(
    "an unused wake-up is not passed on",
    WAIT,
    "        if self.is_woken and not acquired:\n",
    "        if False:\n",
    f"{UNIT}acquisition.py::test_an_unused_wake_up_is_passed_on",
)
_bug(
    "no blocking read follows one that ended",
    WAIT,
    "        self._is_reading = False\n        if isinstance(reply, ReplyError)",
    "        if isinstance(reply, ReplyError)",
    f"{DIRECTED}a_waiter_is_woken_by_the_release",
)
_bug(
    "a wake-up does not end the wait",
    WAIT,
    "        return key\n",
    '        return ""\n',
    f"{DIRECTED}a_waiter_is_woken_by_the_release",
)
_bug(
    "the next thread in the queue is not told",
    LOCAL,
    "            first.signal.put(None)\n",
    "            pass\n",
    f"{UNIT}local_wait_queue.py::test_it_is_first_come_first_served",
)
_bug(
    "all threads of a process wait at the nodes",
    LOCAL,
    "return first is self or (",
    "return True or (",
    f"{UNIT}local_wait_queue.py::test_it_is_first_come_first_served",
)
_bug(
    "an idle waiting connection is kept for ever",
    WAITERS,
    "if now_ms() - since_ms < _LONGEST_KEPT_MS:",
    "if True:",
    f"{DIRECTED}an_old_waiting_connection_is_not_used_again",
)
# A fork.
_bug(
    "a child uses the connections of its parent",
    CONTEXT,
    "        self.pool.reset_after_fork()\n",
    "",
    f"{FORK}a_child_says_nothing_on_the_connections_of_its_parent",
)
_bug(
    "a child has the waiters of its parent",
    CONTEXT,
    "        self.waiter_pool.reset_after_fork()\n",
    "",
    f"{FORK}a_child_queues_behind_no_thread_of_its_parent",
)
_bug(
    "a child renews nothing",
    CONTEXT,
    "        self.renewal.reset_after_fork()\n",
    "",
    f"{FORK}a_child_renews_its_own_leases_and_no_other",
)
_bug(
    "a child has the waits of its parent",
    CONTEXT,
    "        self.waits.reset_after_fork()\n",
    "",
    f"{FORK}a_child_queues_behind_no_thread_of_its_parent",
)
_bug(
    "a child queues behind threads of its parent",
    WAITERS,
    "        self.local_queue.reset_after_fork()\n",
    "        pass\n",
    f"{FORK}a_child_queues_behind_no_thread_of_its_parent",
)
_bug(
    "releases of a child wait for a thread of its parent",
    POOL,
    "        self._releaser.reset_after_fork()\n",
    "",
    f"{FORK}an_asynchronous_release_of_a_child_reaches_the_nodes",
)

"""Mutants in transport, waiting, asynchronous releases and the reset after a fork; see `mutants`.

Each is killed by schedules, or by the test that stands beside its name.
"""

from __future__ import annotations

from tests.sim.mutant_list import MutantList

LIST = MutantList()
_connection, _nodes, _rounds, _releases, _health, _sockets, _threads, _pool, _checks, _decoder = LIST.files(
    *("_transport/connection.py", "_transport/connected_nodes.py", "_transport/connections.py"),
    *("_transport/pending_releases.py", "_transport/node_health.py", "_transport/sockets.py", "_transport/threads.py"),
    *("_transport/pool.py", "_transport/vote_checks.py", "_transport/decoder.py"),
)
_acquisition, _wait, _waiters, _local, _timeout, _context, _entry = LIST.files(
    *("_locking/acquisition.py", "_locking/wait_queue.py", "_locking/waiter_pool.py", "_locking/local_wait_queue.py"),
    *("_locking/acquire_timeout.py", "_locking/context.py", "_locking/lease_entry.py"),
)
UNIT, DIRECTED = "tests/unit/test_", "tests/sim/test_directed_client.py::test_"
BOUNDS, FORK = "tests/sim/test_time_bounds.py::test_", "tests/sim/test_fork.py::test_"

# One connection.
_rounds(
    "a reply belongs to the youngest command",
    "pending.popleft(), vote",
    "pending.pop(), vote",
    f"{UNIT}connections.py::test_a_late_reply_counts_for_no_other_round",
)
_decoder(
    "a grant inside another reply is a vote",
    "at = self._parse(piece, 0, votes) if self._is_inside else 0",
    "at = 0",
    f"{UNIT}connections.py::test_a_grant_inside_another_reply_is_no_vote",
)
_connection.without("a part of a command is sent twice", "del rest[:sent]")
_connection("a part of a command is never sent", "        del rest[:sent]\n", "        rest.clear()\n")
_sockets("a blocked send counts as sent", "                sent = 0\n", "                sent = len(words)\n")
_connection(
    "releases that were held back are lost with the next command",
    "        self.outbox += words\n",
    "        self.outbox = words\n",
    f"{UNIT}connections.py::test_a_held_back_command_goes_out_with_the_next_command",
)
_threads(
    "a flush sends nothing",
    "        self.releases.flush(now)\n        self._sockets.write(self.state.all)\n",
    "        self.releases.flush(now)\n",
    f"{DIRECTED}releases_in_quick_succession_reach_the_nodes_at_once",
)
_threads(
    "a round to other nodes leaves releases behind",
    "self._sockets.write(state.order(command))",
    "self._sockets.write([one for one in state.order(command) if round_.to is None or one.place in round_.to])",
    f"{DIRECTED}a_round_to_no_node_sends_what_was_held_back",
)
_connection(
    "a new connection goes on with the old parser",
    "        self.reader = VoteReader()\n        self.suspect_since_ms, self.reason",
    "        self.suspect_since_ms, self.reason",
)
_connection.without("replies of a lost connection are still awaited", "self.pending.clear()")
_connection(
    "bytes of a lost connection go out on the next one",
    'self.outbox, self.is_blocked, self.is_sending = b"", False, False',
    "self.is_blocked = self.is_sending = False",
    f"{UNIT}connected_nodes.py::test_a_lost_connection_drops_its_bytes_and_what_it_held_back",
)
# The connections of a set.
_nodes(
    "the cancel of an interrupted attempt follows half of a command",
    "if one.is_blocked or one.is_sending:",
    "if one.is_blocked:",
    f"{UNIT}connected_nodes.py::test_requests_that_were_not_sent_are_dropped",
)
_nodes(
    "each round waits for the dial of a node that is down",
    "if patient and not one.node.error and",
    "if patient and",
    f"{BOUNDS}a_bad_minority_costs_one_node_timeout_once",
)
_nodes(
    "each round waits for the dial of a node that ends its connections",
    " and (is_few or not one.is_unsteady)]",
    "]",
    f"{UNIT}connected_nodes.py::test_a_connection_that_never_lasts_holds_up_no_round",
)
_nodes.without(
    "an overdue dial is waited for again",
    'one.node.mark_down(f"no answer within {state.timeout_ms} ms", now_ms)',
    f"{UNIT}connected_nodes.py::test_an_overdue_dial_is_waited_for_once",
)
_nodes(
    "a failed dial is never repeated",
    "connection.is_dialling, connection.reason = False, reason",
    "connection.reason = reason",
)
_nodes(
    "a suspect node keeps its connection for ever",
    "overdue = now_ms - one.suspect_since_ms > _SUSPECT_MS",
    "overdue = False",
    f"{UNIT}connections.py::test_a_suspect_node_loses_its_connection_after_a_second",
)
_nodes(
    "without a quorum silent connections are kept",
    "if overdue or renews:",
    "if overdue:",
    f"{DIRECTED}a_connection_that_a_firewall_has_forgotten_is_renewed",
)
_nodes.without(
    "a round waits for a connection that has ended",
    "tally.record_silence(connection.place, reason)",
    f"{UNIT}connections.py::test_a_reset_inside_a_reply_is_a_vote_less",
)
_nodes(
    "without a quorum no round waits for dials",
    "limit_ms = max(limit_ms, self._until_ms - state.timeout_ms)",
    "pass",
    f"{UNIT}connected_nodes.py::test_without_a_quorum_a_round_waits_for_dials",
)
_nodes.without(
    "addresses of the same server are not noticed",
    "vote_checks.find_duplicates(self.all, connection.dialled_ms)",
    f"{UNIT}connected_nodes.py::test_addresses_of_the_same_server_cast_one_vote",
)
_nodes.without(
    "a rejection is never cleared",
    "connection.refusal = None",
    f"{UNIT}connected_nodes.py::test_a_rejection_by_a_minority_costs_its_votes_only",
)
_nodes(
    "the waiting node gets a release first",
    "for step in range(1, count + 1)]",
    "for step in range(count)]",
    f"{UNIT}wait_queue.py::test_a_release_is_sent_last_to_the_node_of_the_waiters",
)
# Rounds.
_rounds("lost scripts are never loaded again", 'startswith("NOSCRIPT")', 'startswith("NEVER")')
_rounds(
    "a command is not repeated after its scripts",
    "        if not tally.closed or type(tally.command) is Release:\n            words",
    "        if False:\n            words",
    f"{DIRECTED}lost_scripts_cost_one_round_trip",
)
_rounds(
    "a command of a closed round is repeated after its scripts",
    "        if not tally.closed or type(tally.command) is Release:\n            words",
    "        if True:\n            words",
    f"{UNIT}connections.py::test_a_command_of_a_closed_round_is_not_repeated",
)
_rounds(
    "a release of a closed round is not repeated after its scripts",
    "if not tally.closed or type(tally.command) is Release:",
    "if not tally.closed:",
    f"{UNIT}connections.py::test_a_release_is_repeated_after_the_end_of_its_round",
)
_rounds(
    "a node is suspect at the limit of a release",
    "if now_ms - tally.sent_ms >= self.timeout_ms:",
    "if True:",
    f"{UNIT}connections.py::test_a_release_has_a_shorter_limit_and_suspects_nobody",
)
_rounds(
    "no node is ever suspect",
    "if now_ms - tally.sent_ms >= self.timeout_ms:",
    "if False:",
    f"{UNIT}connections.py::test_a_suspect_node_loses_its_connection_after_a_second",
)
_rounds(
    "a client that a quorum rejects asks for votes",
    "            elif barred:\n",
    "            elif False:\n",
    f"{UNIT}connected_nodes.py::test_a_client_that_a_quorum_rejects_asks_for_no_vote",
)
_rounds(
    "a reply without a command is accepted",
    "if not data or len(votes) > len(pending):",
    "if not data:",
    f"{UNIT}connections.py::test_bytes_that_are_no_reply_end_the_connection",
)
_rounds(
    "a closed connection is not noticed",
    "if not data or len(votes) > len(pending):",
    "if len(votes) > len(pending):",
)
_rounds(
    "a release waits as long as other rounds",
    "min(self.timeout_ms, RELEASE_MS) if type(tally.command) is Release else self.timeout_ms",
    "self.timeout_ms",
    f"{UNIT}connections.py::test_a_release_has_a_shorter_limit_and_suspects_nobody",
)
_checks(
    "a server with two addresses votes twice",
    "    for duplicate in connection.duplicates:\n        if tally",
    "    for duplicate in ():\n        if tally",
    f"{UNIT}connected_nodes.py::test_addresses_of_the_same_server_cast_one_vote",
)
_checks(
    "a single node chooses the token",
    "    if is_doubted and vote.kind is Kind.GRANTED:\n",
    "    if False:\n",
    f"{UNIT}connections_edges.py::test_no_single_node_chooses_the_token",
)
_checks(
    "a node with an implausible token has a vote",
    "vote.fence > (vote.time_ms + FENCE_AHEAD_MS) * 1_000",
    "False",
    f"{UNIT}connections_edges.py::test_a_token_beyond_the_own_clock_of_a_node_has_no_vote",
)
_checks(
    "the largest doubted tokens count first",
    "key=lambda doubted: doubted[1].fence)",
    "key=lambda doubted: -doubted[1].fence)",
    f"{UNIT}connections_edges.py::test_the_smallest_tokens_above_the_proposal_count",
)
_checks(
    "a doubted token is a second vote of a server",
    "tally.cast(place, counted_once(connections[place], tally, vote))",
    "tally.cast(place, vote)",
    f"{UNIT}connections_edges.py::test_a_token_kept_back_is_no_second_vote_of_a_server",
)
_health("a node that was down is never dialled again", "self._takes_turn(_DIAL, now_ms, _RETRY_LAST_MS)", "False")
_threads(
    "a frozen process counts no reply",
    "            now = self._pump(0)\n            if not tally.is_over:\n",
    "            if True:\n",
    f"{DIRECTED}a_process_stopped_at_its_clock_counts_the_replies",
)
_threads(
    "the round of an interrupted attempt stays open",
    "            # An exception may end the wait: then no command of this round may be sent again after the cancel.\n            tally.closed = True\n",
    "            pass\n",
    f"{DIRECTED}an_interrupted_acquire_is_not_repeated_with_its_scripts",
)
# Asynchronous releases.
_releases(
    "a full buffer of releases is not sent",
    "self.held_back >= _MOST_HELD_BACK or ",
    "",
    f"{UNIT}pending_releases.py::test_it_is_time_to_send_after_2_ms_or_64_releases",
)
_releases(
    "an old buffer of releases is not sent",
    " or now_ms - self._held_since_ms > _LONGEST_HELD_BACK_MS",
    "",
    f"{UNIT}pending_releases.py::test_it_is_time_to_send_after_2_ms_or_64_releases",
)
_releases(
    "a release without replies has no end",
    " or now_ms - tally.sent_ms > RELEASE_MS",
    "",
    f"{UNIT}pending_releases.py::test_outcomes_are_reported_once_and_in_order",
)
_releases.without(
    "the outcome of a release is reported to nobody",
    "done(stop.value)",
    f"{UNIT}pending_releases.py::test_outcomes_are_reported_once_and_in_order",
)
_releases.without(
    "the time of a held release counts from its call",
    "pending.tally.sent_ms = now_ms",
    f"{UNIT}pending_releases.py::test_the_time_of_a_held_back_release_counts_from_its_send",
)
_releases(
    "a renewal prolongs the time of a release",
    "        if held:\n            self._held_since_ms",
    "        if True:\n            self._held_since_ms",
    f"{UNIT}pending_releases.py::test_renewals_do_not_prolong_the_time_of_a_release",
)
# The acquire loop.
_waiters(
    "an exception of the application counts as a failure of a node",
    "NODE_ERRORS = (ConnectionFailed,",
    "NODE_ERRORS = (OSError, ConnectionFailed,",
    f"{UNIT}acquisition.py::test_an_exception_in_a_wait_leaves_the_queue_at_once",
)
_acquisition(
    "an interrupted attempt is not cancelled",
    "            with contextlib.suppress(Exception):\n                yield from protocol.cancel(attempt, attempt.ttl_ms)\n",
    "",
    f"{DIRECTED}an_interrupted_acquire_leaves_no_key",
)
_acquisition(
    "an interrupted grant is not undone",
    "        except BaseException:\n            self._lease._undo()\n",
    "        except BaseException:\n",
    f"{DIRECTED}an_attempt_that_a_lease_has_lost_is_undone",
)
_acquisition(
    "a lease that is over is returned",
    "                if now >= result.deadline_ms:\n",
    "                if False:\n",
    f"{UNIT}acquisition_edges.py::test_a_grant_that_is_over_by_now_is_cancelled",
)
_acquisition(
    "a reservation for a dead waiter refuses a single attempt",
    "if self._ignores_reservations or not (refusal.round_result.is_only_reserved and is_in_time):",
    "if True:",
    f"{UNIT}acquisition.py::test_a_reserved_lock_is_taken_after_the_reservation",
)
_acquisition(
    "a reservation is waited for beyond the limit",
    "until_ms is None or now_ms() + reserve_ms < until_ms",
    "True",
    f"{UNIT}acquisition_edges.py::test_a_reservation_is_waited_for_within_two_node_timeouts",
)
_timeout(
    "the last attempt has no deadline",
    "self.started_ms + self._length_ms + 2 * node_timeout_ms",
    "self.started_ms + 60_000 + 2 * node_timeout_ms",
    f"{UNIT}acquisition.py::test_an_attempt_ends_two_node_timeouts_after_the_limit",
)
_timeout(
    "a loop without a limit never gives up",
    "self._heard_ms + self._ttl_ms - now_ms() if refusal.no_quorum else None",
    "None",
    f"{UNIT}acquire_timeout.py",
)
_entry.without(
    "the end of the lease of an inner block is not noticed by a thread",
    "self._outer._watch()",
    f"{DIRECTED}an_inner_block_hears_of_the_end_of_its_lease",
)
# Waiting.
_wait(
    "an unused wake-up is not passed on",
    "        if self.is_woken and not acquired:\n",
    "        if False:\n",
    f"{UNIT}acquisition.py::test_an_unused_wake_up_is_passed_on",
)
_wait(
    "no blocking read follows one that ended",
    "        self._is_reading = False\n        if isinstance(reply, ReplyError)",
    "        if isinstance(reply, ReplyError)",
    f"{DIRECTED}a_waiter_is_woken_by_the_release",
)
_wait(
    "a wake-up does not end the wait",
    "        return key\n",
    '        return ""\n',
    f"{DIRECTED}a_waiter_is_woken_by_the_release",
)
_local.without(
    "the next thread in the queue is not told",
    "first.signal.put(None)",
    f"{UNIT}local_wait_queue.py::test_it_is_first_come_first_served",
)
_local(
    "all threads of a process wait at the nodes",
    "return first is self or (",
    "return True or (",
    f"{UNIT}local_wait_queue.py::test_it_is_first_come_first_served",
)
_waiters(
    "an idle waiting connection is kept for ever",
    "if now_ms() - since_ms < _LONGEST_KEPT_MS:",
    "if True:",
    f"{DIRECTED}an_old_waiting_connection_is_not_used_again",
)
# A fork.
_context.without(
    "a child uses the connections of its parent",
    "self.pool.reset_after_fork()",
    f"{FORK}a_child_says_nothing_on_the_connections_of_its_parent",
)
_context.without(
    "a child has the waiters of its parent",
    "self.waiters.reset_after_fork()",
    f"{FORK}a_child_queues_behind_no_thread_of_its_parent",
)
_context.without(
    "a child renews nothing", "self.renewal.reset_after_fork()", f"{FORK}a_child_renews_its_own_leases_and_no_other"
)
_context.without(
    "a child has the waits of its parent",
    "self.waits.reset_after_fork()",
    f"{FORK}a_child_queues_behind_no_thread_of_its_parent",
)
_waiters.without(
    "a child queues behind threads of its parent",
    "self.local_queue.reset_after_fork()",
    f"{FORK}a_child_queues_behind_no_thread_of_its_parent",
)
_pool.without(
    "releases of a child wait for a thread of its parent",
    "self._releaser.reset_after_fork()",
    f"{FORK}an_asynchronous_release_of_a_child_reaches_the_nodes",
)

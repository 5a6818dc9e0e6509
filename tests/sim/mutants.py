"""Seeded bugs, each a replaced piece of the shipped source: a tester that does not find them would not find ours.

A mutant is killed by a broken promise or an exception in the simulator, or by the test that `NAMED` gives. A
survivor must be in `EQUIVALENT`, with the reason why no promise changes.
"""

from __future__ import annotations

from tests.sim import mutants_asyncio, mutants_scripts, mutants_transport
from tests.sim.mutant_list import MutantList

_LIST = MutantList()
_protocol, _votes, _tally, _fences, _decoder, _codec, _client = _LIST.files(
    *("_core/protocol.py", "_core/votes.py", "_core/vote_tally.py", "_core/observed_fences.py"),
    *("_transport/decoder.py", "_transport/codec.py", "_locking/client_context.py"),
)
UNIT, DIRECTED = "tests/unit/test_", "tests/sim/test_directed.py::test_"

# Rounds and their results.
_votes("a quorum that is no majority", "return nodes // 2 + 1", "return max(1, nodes // 2)")
_votes("no drift allowance", "return -(-ttl_ms // 100) + 2", "return 0")
_votes("a deadline past the TTL", "return sent_ms + ttl_ms - drift_ms(ttl_ms) - 1", "return sent_ms + ttl_ms * 2")
_protocol(
    "validity counted from the end",
    "deadline_ms(attempt.ttl_ms, first.sent_ms)",
    "deadline_ms(attempt.ttl_ms, last.done_ms)",
)
_protocol(
    "validity never looked at",
    "if not won or last.done_ms >= by:",
    "if not won:",
    f"{UNIT}protocol.py::test_what_took_longer_than_it_is_good_for_is_no_lease",
)
_protocol(
    "validity not counted from the first round",
    "deadline_ms(attempt.ttl_ms, first.sent_ms)",
    "deadline_ms(attempt.ttl_ms, last.sent_ms) + attempt.ttl_ms // 2",
)
_protocol("won without a quorum", "if not first.won or first.disagreement is not None:", "if first.granted == 0:")
_decoder(
    "silence is a yes",
    "return Vote(Kind.SILENT, remaining_ms=left_ms",
    "return Vote(Kind.GRANTED, remaining_ms=left_ms",
)
_protocol(
    "a lost round keeps its keys",
    "yield Round(Release(attempt.names, attempt.token, wake_ms), Wait.SENT, to)",
    "return\n    yield",
)
_votes(
    "a lost round is taken back only where it was granted",
    "enumerate(self.votes) if vote.kind is not Kind.DENIED])",
    "enumerate(self.votes) if vote.kind is Kind.GRANTED])",
    f"{UNIT}protocol.py::test_a_lost_attempt_is_cancelled_except_on_denying_nodes",
)
_tally(
    "a tie is never decided",
    "return granted >= quorum or granted + unanswered < quorum",
    "return granted == quorum or granted + unanswered < quorum - 1",
    f"{UNIT}votes.py::test_a_round_is_decided_once_no_vote_can_change_its_result",
)
_protocol(
    "an old proposal counts",
    "by = deadline if attempt.decide_by_ms is None else min(deadline, attempt.decide_by_ms)",
    "by = deadline",
    f"{UNIT}protocol.py::test_an_attempt_whose_proposal_has_grown_old_is_lost",
)
# The token.
_protocol(
    "the largest answer is the token",
    "fence, last, won, rounds = first.agreed_fence, first, True, 1",
    "fence, last, won, rounds = first.largest_fence, first, True, 1",
    f"{UNIT}protocol.py::test_fences_that_disagree_are_made_to_agree_on_a_larger_one",
)
_votes(
    "agreed although one answered more",
    "return largest if fences.count(largest) >= self.quorum else None",
    "return max(fences, key=fences.count) if fences else None",
)
_protocol("a confirm of the same number", "if vote.kind is Kind.GRANTED) + 1", "if vote.kind is Kind.GRANTED)")
_protocol(
    "a confirm that needs no quorum",
    "won, rounds = last.won, 2",
    "won, rounds = last.granted > 0, 2",
    f"{UNIT}protocol.py::test_a_confirm_without_a_quorum_is_cancelled_everywhere",
)
# Extension and repair.
_protocol(
    "an extension without a quorum",
    "if not round_result.won:\n        return Refusal(round_result)",
    "if round_result.granted == 0:\n        return Refusal(round_result)",
    f"{DIRECTED}2_a_lost_lease_does_not_come_back",
)
_protocol(
    "an extension counted from its end",
    "deadline = deadline_ms(ttl_ms, round_result.sent_ms)",
    "deadline = deadline_ms(ttl_ms, round_result.done_ms) + ttl_ms // 4",
)
_protocol(
    "an extension after the deadline",
    "round_result.sent_ms >= grant.deadline_ms or ",
    "",
    f"{UNIT}protocol.py::test_an_extension_sent_after_the_deadline_fails",
)
_protocol(
    "repair after a lost extension",
    "if not round_result.won:\n        return Refusal(round_result)",
    "if not round_result.won:\n        yield Round(Repair(grant.names, grant.token, ttl_ms, grant.fence), Wait.SENT)\n        return Refusal(round_result)",
    f"{UNIT}protocol.py::test_a_lost_extension_deletes_and_repairs_nothing",
)
# Quarantine.
_votes(
    "a quarantine of half a lease",
    "return max_ttl_ms + drift_ms(max_ttl_ms)",
    "return max_ttl_ms // 2",
    f"{UNIT}votes.py::test_a_quarantine_lasts_longer_than_every_forgotten_lease",
)
_codec(
    "a lease without the bound of max_ttl",
    " and command.ttl_ms > self.max_ttl_ms:",
    " and False:",
    f"{DIRECTED}3_a_lease_longer_than_max_ttl_is_not_asked_for",
)
# Tokens far ahead, and the memory of a client.
_fences(
    "a token is remembered for every resource",
    "self._largest.get(name, 0) + 1 for name in names",
    "1 + token for token in self._largest.values()",
    f"{UNIT}fences.py::test_a_token_of_one_resource_is_proposed_for_no_other",
)
_client(
    "a proposal counts for too long",
    "self.fresh_ms = options.max_ttl_ms // 2",
    "self.fresh_ms = options.max_ttl_ms",
    f"{UNIT}fences.py::test_a_proposal_counts_for_half_of_max_ttl",
)

_LISTS = (_LIST, mutants_scripts.LIST, mutants_transport.LIST, mutants_asyncio.LIST)
MUTANTS = {name: pieces for one in _LISTS for name, pieces in one.mutants.items()}
NAMED = {name: test for one in _LISTS for name, test in one.named.items()}
"""The tests of those that schedules do not kill: what they break needs a coincidence that is too seldom."""
EQUIVALENT: dict[str, str] = {
    "won without a quorum": (
        "the token still needs a quorum: `agreed_fence` counts only GRANTED votes, and otherwise the confirm must be "
        "won"
    ),
    "a confirm of the same number": (
        "the node that answered the largest number got it by this very attempt, so with a quorum of confirms for it "
        "the certificate of uniqueness is complete; `confirm.lua` refuses where the fence is not smaller"
    ),
}
"""Survivors, each with the reason why nothing that is promised changes."""

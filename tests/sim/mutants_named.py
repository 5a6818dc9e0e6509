"""Mutants that schedules do not kill: those that a named test kills, and those that change nothing."""

from __future__ import annotations

from tests.sim import mutants_asyncio, mutants_transport

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

NAMED: dict[str, str] = {
    **mutants_transport.LIST.named,
    **mutants_asyncio.LIST.named,
    "a lost round is taken back only where it was granted": (
        "tests/unit/test_protocol.py::test_a_lost_attempt_is_cancelled_except_on_denying_nodes"
    ),
    "a tie is never decided": "tests/unit/test_votes.py::test_a_tie_between_two_clients_is_a_decision",
    "validity never looked at": ("tests/unit/test_protocol.py::test_what_took_longer_than_it_is_good_for_is_no_lease"),
    "an old proposal counts": "tests/unit/test_protocol.py::test_an_attempt_whose_proposal_has_grown_old_is_lost",
    "the largest answer is the token": (
        "tests/unit/test_protocol.py::test_fences_that_disagree_are_made_to_agree_on_a_larger_one"
    ),
    "a confirm that needs no quorum": (
        "tests/unit/test_protocol.py::test_a_confirm_without_a_quorum_is_cancelled_everywhere"
    ),
    "an extension without a quorum": "tests/sim/test_directed.py::test_2_a_lost_lease_does_not_come_back",
    "an extension after the deadline": ("tests/unit/test_protocol.py::test_an_extension_sent_after_the_deadline_fails"),
    "an extension of whatever is there": (
        "tests/sim/test_directed.py::test_2_an_extension_does_not_lengthen_what_is_another_s"
    ),
    "an extension that creates": "tests/sim/test_directed.py::test_2_a_lost_lease_does_not_come_back",
    "a failed extension deletes": "tests/sim/test_directed.py::test_2_an_extension_that_fails_deletes_nothing",
    "repair after a lost extension": "tests/unit/test_protocol.py::test_a_lost_extension_deletes_and_repairs_nothing",
    "open does not remember the owner": (
        "tests/sim/test_directed_store.py::test_10_two_operations_under_one_lease_lose_no_update"
    ),
    "write without a look at the section": (
        "tests/sim/test_directed_store.py::test_10_two_operations_under_one_lease_lose_no_update"
    ),
    "a section is not closed": "tests/sim/test_scripts.py::test_the_store_writes_as_the_comment_of_the_script_says",
    "a lease without the bound of max_ttl": (
        "tests/sim/test_directed_edges.py::test_a_lease_longer_than_max_ttl_is_not_asked_for"
    ),
    "the first client sets the quarantine": (
        "tests/sim/test_directed_edges.py::test_a_smaller_max_ttl_does_not_shorten_a_quarantine"
    ),
    "settings are stored without a vote": (
        "tests/sim/test_directed_edges.py::test_a_node_takes_over_no_settings_before_its_first_vote"
    ),
    "declared after a client": "tests/sim/test_scripts.py::test_only_a_node_without_clients_is_declared",
    "declared after a restart": "tests/sim/test_scripts.py::test_only_a_node_without_clients_is_declared",
    "an implausible token counts": ("tests/sim/test_directed.py::test_7_a_node_with_an_implausible_token_has_no_vote"),
    "a quarantine of half a lease": "tests/unit/test_votes.py::test_a_quarantine_lasts_longer_than_every_forgotten_lease",
    "an implausible proposal counts": (
        "tests/sim/test_directed.py::test_7_a_token_an_hour_ahead_is_refused_without_a_write"
    ),
    "only the token of an implausible fence is ignored": (
        "tests/sim/test_directed.py::test_7_a_node_with_an_implausible_token_has_no_vote"
    ),
    "a token is remembered for every resource": (
        "tests/unit/test_fences.py::test_a_token_of_one_resource_is_proposed_for_no_other"
    ),
    "a proposal counts for too long": ("tests/unit/test_fences.py::test_a_proposal_counts_for_half_of_max_ttl"),
    "confirm looks at the first name only": "tests/sim/test_scripts.py::test_a_script_answers_and_writes_as_its_comment_says[confirm]",
    "repair looks at the first name only": "tests/sim/test_scripts.py::test_a_script_answers_and_writes_as_its_comment_says[repair]",
    "repair sets the fence": "tests/sim/test_scripts.py::test_a_script_answers_and_writes_as_its_comment_says[repair]",
    "a release wakes for the first name only": "tests/sim/test_scripts.py::test_a_script_answers_and_writes_as_its_comment_says[release]",
}
"""Those that a named test kills: what they break needs a coincidence that chance brings about too seldom."""

"""`redlock._locking.failures`: the error for a refused round."""

from __future__ import annotations

import pytest

from redlock import ConfigurationError, LockContended, QuorumUnavailable
from redlock._core.votes import UNANSWERED, Refusal, Vote, silent
from redlock._locking import failures
from redlock._transport.node import Node
from tests.unit.helpers import DEAD, SECRET, denied, granted, round_result

NODES = [Node(f"redis://:canary-b7Qx@h:{port}", 100) for port in range(1, 6)]


def error(*votes: Vote, expired: bool = False) -> LockContended | QuorumUnavailable:
    return failures.error(NODES, "account:42", Refusal(round_result(*votes), expired=expired))


def test_a_denial_becomes_an_error_with_holder_and_time() -> None:
    found = error(*[denied(remaining_ms=1_500)] * 3, DEAD, DEAD)
    assert isinstance(found, LockContended)
    assert (found.resource, found.holder, found.remaining) == ("account:42", "task-2@host-b (fedcba98)", 1.5)


def test_a_split_vote_is_contended_without_a_known_end() -> None:
    found = error(granted(), granted(), denied(remaining_ms=None), denied(remaining_ms=None), DEAD)
    assert isinstance(found, LockContended)
    assert found.remaining is None


@pytest.mark.parametrize(
    "votes",
    [
        [DEAD] * 5,
        [granted(), granted(), DEAD, DEAD, DEAD],
        [denied(), denied(), DEAD, DEAD, DEAD],
        [granted(), denied(), DEAD, DEAD, DEAD],
    ],
)
def test_too_few_votes_are_never_contended_whatever_the_few_say(votes: list[Vote]) -> None:
    found = error(*votes)
    assert isinstance(found, QuorumUnavailable)
    assert (found.needed, found.nodes) == (3, 5)
    assert set(found.reasons.values()) == {"connection refused"}
    assert len(found.reasons) == votes.count(DEAD)


def test_a_lock_that_came_too_late_is_not_for_want_of_a_quorum() -> None:
    assert isinstance(error(*[granted()] * 5, expired=True), LockContended)


def test_each_node_without_a_vote_is_listed_with_its_own_reason() -> None:
    votes = round_result(granted(), silent("connection refused"), silent("new: abstains"), UNANSWERED, denied())
    assert failures.reasons(NODES, votes) == {"h:2": "connection refused", "h:3": "new: abstains"}


def test_clients_that_disagree_are_told_where_and_over_what() -> None:
    refused = silent("its clients agreed on nodes=3")._replace(fingerprint="nodes=3 max_ttl=10s prefix=''")
    refusal = Refusal(round_result(granted(), refused, granted(), granted(), granted()))
    with pytest.raises(ConfigurationError) as caught:
        failures.refuse_disagreement(NODES, "nodes=5 max_ttl=10s prefix=''", refusal)
    for said in ("node h:2", "nodes=3 max_ttl=10s", "nodes=5 max_ttl=10s"):
        assert said in str(caught.value)


def test_without_a_disagreement_nothing_is_raised() -> None:
    failures.refuse_disagreement(NODES, "nodes=5", Refusal(round_result(*[DEAD] * 5)))


def test_no_verdict_repeats_a_secret() -> None:
    for found in (error(*[denied(f"{SECRET}:me")] * 5), error(*[denied(f"host:{SECRET}")] * 5), error(*[DEAD] * 5)):
        assert SECRET[:9] not in str(found)
        assert "canary" not in str(found)

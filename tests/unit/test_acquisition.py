"""`redlock._locking.acquisition`: the acquire loop as a generator of effects, performed by hand."""

from __future__ import annotations

import re

import pytest

from redlock import LockContended, QuorumUnavailable, Redlock
from redlock._clock import now_ms, wall_us
from redlock._core.commands import Release, Round, Wait
from redlock._core.votes import Kind, Vote
from redlock._locking.effects import AwaitTurn, Borrow, Effect, PassOn, Receive, Send, Sleep, TakeConnections
from redlock._transport.node import UnsuitableNode
from redlock._transport.socket_errors import NoReply
from tests.unit.helpers import DEAD, denied, granted, round_result
from tests.unit.trials import CONNECTIONS, NAMES, WAKE_KEY, Borrowed, Cancelled, Trial, denied_trial, waiting_trial


def test_a_free_lock_takes_one_attempt(client: Redlock) -> None:
    trial = Trial(client)
    trial.is_over(*[granted()] * 5)
    (grant, connections, waited_ms) = trial.granted[0]
    assert grant.token == trial.command.token
    assert re.fullmatch("[0-9a-f]{32}:me", grant.token)
    assert 0 <= waited_ms < 60_000
    assert connections is CONNECTIONS
    assert not trial.undone


def test_a_denied_attempt_waits_for_a_wake_up_and_is_woken(client: Redlock) -> None:
    trial = denied_trial(client)
    first = trial.command
    assert trial.is_queued
    borrowed = trial.wait()
    trial.send([WAKE_KEY, b"1"])
    trial_effect = trial.effect
    assert type(trial_effect) is TakeConnections
    trial.is_over(*[granted()] * 5)
    assert trial.command.woken
    assert trial.command.token != first.token, "each attempt has its own token"
    assert not trial.is_queued
    assert not borrowed.is_closed, "the connection is kept for the next waiter"
    assert client._context.waiters.borrow(trial.context.waiters.node_for(NAMES), 0) is borrowed


def test_the_second_waiter_of_a_process_awaits_its_turn(client: Redlock) -> None:
    first, second = Trial(client), Trial(client)
    first.attempt(*[denied()] * 5)
    effect = second.attempt(*[denied()] * 5)
    assert type(effect) is AwaitTurn
    assert effect.place.signal.empty()
    first.wait()
    first.send([WAKE_KEY, b"1"])
    first.is_over(*[granted()] * 5)
    assert effect.place.signal.get_nowait() is None, "the first has left"
    assert effect.place.is_first
    assert type(second.send()) is TakeConnections


@pytest.mark.parametrize("error", [Cancelled, ValueError])
def test_an_exception_in_a_round_cancels_the_attempt(client: Redlock, error: type[BaseException]) -> None:
    trial = Trial(client)
    round_ = trial.send(CONNECTIONS)
    assert type(round_) is Round
    cancel = trial.steps.throw(error())
    assert type(cancel) is Round
    assert type(cancel.command) is Release
    assert (cancel.command.token, cancel.wait) == (round_.command.token, Wait.SENT)  # type: ignore[union-attr]  # Acquire
    with pytest.raises(error):
        trial.send(round_result(*[DEAD] * 5))
    assert trial.undone == 1


@pytest.mark.parametrize("kind", [Borrow, Send, Receive])
@pytest.mark.parametrize("error", [Cancelled, TimeoutError, ConnectionResetError])
def test_an_exception_in_a_wait_leaves_the_queue_at_once(
    client: Redlock, kind: type[Effect], error: type[BaseException]
) -> None:
    """Also an exception of the kind that a socket raises: a signal handler of the application has raised it."""
    trial, borrowed = Trial(client), Borrowed()
    trial.attempt(*[denied()] * 5)
    while type(trial.effect) is not kind:
        trial.send(borrowed if type(trial.effect) is Borrow else None)
    with pytest.raises(error):
        effect = trial.steps.throw(error())
        assert type(effect) is Receive
        assert effect.until is None, "only what has arrived already"
        trial.steps.throw(NoReply())
    assert borrowed.is_closed is (kind is not Borrow)
    assert not trial.is_queued


def test_an_unused_wake_up_is_passed_on(client: Redlock) -> None:
    trial, borrowed = waiting_trial(client)
    trial.steps.throw(Cancelled())
    effect = trial.send([WAKE_KEY, b"1"])
    assert type(effect) is PassOn
    assert effect.connection is borrowed
    assert WAKE_KEY in effect.words
    with pytest.raises(Cancelled):
        trial.send()
    assert not trial.is_queued


def test_a_closed_generator_leaves_the_queue_and_yields_nothing(client: Redlock) -> None:
    trial, borrowed = waiting_trial(client)
    trial.steps.close()
    assert borrowed.is_closed
    assert not trial.is_queued


def test_a_generator_closed_in_its_first_round_undoes_it(client: Redlock) -> None:
    trial = Trial(client)
    trial.send(CONNECTIONS)
    trial.steps.close()
    assert trial.undone == 1


def test_a_failed_wait_marks_the_node_as_down_and_goes_on(client: Redlock) -> None:
    trial = denied_trial(client)
    first = trial.effect
    assert type(first) is Borrow
    effect = trial.steps.throw(UnsuitableNode("connection refused"))
    assert effect == Sleep(0.01)
    assert first.node.error == "connection refused"
    second = trial.send()
    assert type(second) is Borrow
    assert second.node is not first.node


def test_a_node_that_does_not_wait_is_down(client: Redlock) -> None:
    trial = denied_trial(client)
    node = trial.effect.node  # type: ignore[union-attr]  # Borrow
    borrowed = trial.wait()
    assert type(trial.send(None)) is Sleep
    assert borrowed.is_closed
    assert "does not wait" in node.error


def test_a_single_attempt_raises_the_cause(client: Redlock) -> None:
    trial = Trial(client, 0)
    with pytest.raises(LockContended):
        trial.attempt(*[denied()] * 5)
    trial = Trial(client, 0)
    assert type(trial.attempt(*[DEAD] * 5)) is TakeConnections, "a second attempt on new connections"
    with pytest.raises(QuorumUnavailable):
        trial.attempt(*[DEAD] * 5)


def test_a_split_vote_sleeps_without_a_wake_up(client: Redlock) -> None:
    trial = Trial(client)
    effect = trial.attempt(granted(), granted(), denied(), denied(), DEAD)
    assert type(effect) is Sleep
    assert effect.seconds < 0.05
    assert type(trial.send()) is TakeConnections


def test_a_reserved_lock_is_taken_after_the_reservation(client: Redlock) -> None:
    trial = Trial(client, 0)
    reserved = Vote(Kind.DENIED, 0, "", 40)
    effect = trial.attempt(*[reserved] * 5)
    assert effect == Sleep(client._context.reserve_ms / 1000)
    assert type(trial.send()) is TakeConnections
    trial.is_over(*[granted()] * 5)
    assert trial.command.woken


def test_a_lock_that_was_waited_for_is_queued_for_at_first(client: Redlock) -> None:
    client._context.waiters.remember(NAMES, 2_000, 60_000)
    trial = Trial(client)
    trial.wait()
    trial.send([WAKE_KEY, b"1"])
    assert type(trial.effect) is TakeConnections
    trial.is_over(*[granted()] * 5)
    assert trial.command.woken


def test_a_larger_token_of_a_quorum_is_proposed_next(client: Redlock) -> None:
    trial = Trial(client)
    ahead = trial.context.proposal(NAMES, wall_us()) + 10**9
    trial.attempt(*[denied(fence=ahead)] * 5)
    trial.wait()
    trial.send([WAKE_KEY, b"1"])
    trial.is_over(*[granted()] * 5)
    assert trial.command.proposed == ahead + 1


def test_a_used_wake_up_is_not_used_again(client: Redlock) -> None:
    trial, _ = waiting_trial(client)
    trial.send([WAKE_KEY, b"1"])
    for _ in range(6):
        effect = trial.attempt(*[denied()] * 5)
        assert trial.command.woken
        assert type(effect) is Sleep, "the release is still on its way to the other nodes"
        trial.send()
    assert type(trial.attempt(*[denied()] * 5)) is Send, "it waits for another wake-up"
    assert type(trial.send()) is Receive
    trial.send([WAKE_KEY, b"1"])
    trial.is_over(*[granted()] * 5)


def test_an_attempt_ends_two_node_timeouts_after_the_limit(client: Redlock) -> None:
    before_ms = now_ms()
    bounded, unbounded = Trial(client, 700).effect, Trial(client, None).effect
    assert type(bounded) is type(unbounded) is TakeConnections
    assert unbounded.until_ms is None
    assert bounded.until_ms is not None
    assert before_ms <= bounded.until_ms - 700 - 2 * client._context.node_timeout_ms <= now_ms()

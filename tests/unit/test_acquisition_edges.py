"""`redlock._locking.acquisition`: the limits of an acquisition, with effects performed by hand."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import pytest

from redlock import ConfigurationError, LockContended, QuorumUnavailable, Redlock
from redlock._clock import now_ms, wall_us
from redlock._core.commands import Confirm, Release, Round
from redlock._core.votes import Kind, Vote, deadline_ms, masked_token
from redlock._locking import waiter_pool
from redlock._locking.effects import AwaitTurn, Effect, Receive, Send, Sleep, TakeConnections
from redlock._locking.waiter_pool import WaiterPool
from redlock._transport.codec import Codec
from redlock._transport.node import Node
from tests.unit.helpers import DEAD, denied, granted, round_result
from tests.unit.trials import CONNECTIONS, NAMES, WAKE_KEY, Borrowed, Cancelled, Trial, denied_trial, waiting_trial

HOUR_US = 3_600_000_000


def ended(trial: Trial, *votes: Vote) -> BaseException:
    """The error that ends an acquisition after an attempt with these votes."""
    with pytest.raises(ConfigurationError) as error:
        trial.attempt(*votes)
    return error.value


def test_a_token_of_a_minority_is_not_proposed_next(client: Redlock) -> None:
    trial = Trial(client)
    ahead = wall_us() + HOUR_US // 2
    trial.attempt(denied(fence=ahead), denied(fence=ahead), *[denied()] * 3)
    assert trial.context.proposal(NAMES, wall_us()) < ahead


def test_the_token_of_a_second_round_is_remembered(client: Redlock) -> None:
    trial = Trial(client)
    trial.send(CONNECTIONS)
    ahead, sent_ms = wall_us() + HOUR_US // 2, now_ms()
    first = [granted(fence=1), granted(fence=1), granted(fence=ahead)]
    confirm = trial.send(round_result(*first, DEAD, DEAD, sent_ms=sent_ms, done_ms=sent_ms))
    assert type(confirm) is Round
    assert type(confirm.command) is Confirm
    votes = [granted(fence=ahead + 1)] * 3
    with pytest.raises(StopIteration):
        trial.send(round_result(*votes, DEAD, DEAD, sent_ms=sent_ms, done_ms=sent_ms))
    assert trial.context.proposal(NAMES, wall_us()) == ahead + 2


def test_a_grant_that_is_over_by_now_is_cancelled(client: Redlock, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(client, 0)
    trial.send(CONNECTIONS)
    sent_ms = now_ms()
    monkeypatch.setattr("redlock._locking.acquisition.now_ms", lambda: deadline_ms(3_000, sent_ms))
    cancel = trial.send(round_result(*[granted()] * 5, sent_ms=sent_ms, done_ms=sent_ms + 5))
    assert type(cancel) is Round
    assert type(cancel.command) is Release
    assert cancel.command.wake_ms == 3_000, "a waiter may have seen it as the winner"
    assert not trial.granted
    with pytest.raises(LockContended):
        trial.send(round_result(*[granted()] * 5))


def test_a_refusal_names_all_resources(client: Redlock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "redlock")
    trial = Trial(client, 0, ("a", "b"))
    with pytest.raises(LockContended) as refused:
        trial.attempt(*[denied()] * 5)
    assert refused.value.resource == "a, b"
    assert caplog.messages[-1].startswith("refused resource='a, b' owner_label=me why=")


def test_without_a_limit_too_few_votes_end_it_after_one_ttl(client: Redlock, monkeypatch: pytest.MonkeyPatch) -> None:
    trial, later = Trial(client, None), now_ms() + 3_000
    assert type(trial.attempt(*[DEAD] * 5)) is TakeConnections
    assert type(trial.attempt(*[DEAD] * 5)) is Sleep
    trial.send()
    monkeypatch.setattr("redlock._locking.acquire_timeout.now_ms", lambda: later + 1)
    with pytest.raises(QuorumUnavailable):
        trial.attempt(*[DEAD] * 5)


def test_a_wait_in_this_process_is_no_time_without_votes(client: Redlock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process has asked nobody meanwhile, so a node had no chance to answer."""
    first, second, clock = Trial(client), Trial(client, None), [now_ms()]
    first.attempt(*[denied()] * 5)
    monkeypatch.setattr("redlock._locking.acquire_timeout.now_ms", lambda: clock[0])
    assert type(second.attempt(*[denied()] * 5)) is AwaitTurn
    client._context.waiters.remember(("y",), 2_000, 60_000)
    queued = Trial(client, None, ("y",))
    queued.wait()
    clock[0] += 60_000
    second.send()
    queued.send([WAKE_KEY.replace(b"x", b"y"), b"1"])
    for trial in (second, queued):
        if trial is queued:
            trial.attempt(*[DEAD] * 5)
        assert type(trial.attempt(*[DEAD] * 5)) is Sleep


def test_without_a_quorum_nobody_waits_behind_another(client: Redlock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "redlock")
    first, second = Trial(client), Trial(client)
    first.attempt(*[denied()] * 5)
    second.attempt(*[DEAD] * 5)
    assert type(second.attempt(*[DEAD] * 5)) is Sleep
    retries = [line for line in caplog.messages if line.startswith("retry resource=x owner_label=me holder=")]
    assert len(retries) == 2


@pytest.mark.parametrize(("late_ms", "waits"), [(149, True), (150, False)])
def test_a_reservation_is_waited_for_within_two_node_timeouts(
    client: Redlock, now: int, monkeypatch: pytest.MonkeyPatch, late_ms: int, waits: bool
) -> None:
    trial = Trial(client, 0)
    monkeypatch.setattr("redlock._locking.acquisition.now_ms", lambda: now + late_ms)
    with contextlib.nullcontext() if waits else pytest.raises(LockContended):
        assert trial.attempt(*[Vote(Kind.DENIED, 0, "", 40)] * 5) == Sleep(0.05)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> int:
    """The time stands still, and every pause is the longest possible."""
    now = now_ms()
    monkeypatch.setattr("redlock._locking.wait_queue.monotonic", lambda: 0.0)
    for module in ("acquisition", "acquire_timeout", "wait_queue"):
        monkeypatch.setattr(f"redlock._locking.{module}.now_ms", lambda: now)
    monkeypatch.setattr("redlock._chance.fraction", lambda: 0.999)
    return now


SPLIT = [granted(), granted(), denied(), denied(), DEAD]


@pytest.mark.parametrize(("left_ms", "ends"), [(0, True), (7, True), (8, False)])
@pytest.mark.usefixtures("now")
def test_a_pause_that_nothing_ends_fits_into_the_time(client: Redlock, left_ms: int, ends: bool) -> None:
    trial = Trial(client, left_ms)
    if ends:
        with pytest.raises(LockContended):
            trial.attempt(*SPLIT)
    else:
        assert trial.attempt(*SPLIT) == Sleep(0.008)
        trial.send()
        trial.is_over(*[granted()] * 5)
        assert not trial.command.woken, "no wake-up has come"


@pytest.mark.parametrize(("timeout_ms", "waits_ms"), [(500, 500), (60_000, 1_249), (None, 1_249)])
@pytest.mark.usefixtures("now")
def test_a_wait_for_a_wake_up_ends_with_the_time(client: Redlock, timeout_ms: int | None, waits_ms: int) -> None:
    trial = Trial(client, timeout_ms)
    trial.attempt(*[denied(remaining_ms=None)] * 5)
    trial.wait()
    assert type(trial.effect) is Receive
    assert trial.effect.until == waits_ms / 1000


def test_a_free_lock_is_reserved_for_another_only_once(client: Redlock) -> None:
    trial, reserved = Trial(client, 0), Vote(Kind.DENIED, 0, "", 40)
    assert type(trial.attempt(*[reserved] * 5)) is Sleep
    trial.send()
    with pytest.raises(LockContended):
        trial.attempt(*[reserved] * 5)


def test_a_wait_without_an_attempt_is_shown_too(client: Redlock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "redlock")
    client._context.waiters.remember(NAMES, 2_000, 60_000)
    trial = Trial(client)
    assert caplog.messages == ["waiting resource=x owner_label=me holder=- position=1"]
    trial.wait()
    trial.steps.close()
    assert caplog.messages[-1].startswith("wait-ended resource=x owner_label=me waited_ms=")
    assert caplog.messages[-1].endswith("acquired=False")


def test_the_age_of_a_proposal_counts_from_before_its_clock(client: Redlock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process can be stopped between the readings of its two clocks."""
    now = [1_000_000]

    def stopped() -> int:
        now[0] += 60_000
        return wall_us()

    monkeypatch.setattr("redlock._locking.acquisition.now_ms", lambda: now[0])
    monkeypatch.setattr("redlock._locking.acquisition.wall_us", stopped)
    trial = Trial(client)
    round_: Any = trial.send(CONNECTIONS)
    assert round_.command.decide_by_ms == 1_000_000 + trial.context.fresh_ms


def test_other_settings_at_a_node_end_an_acquisition(client: Redlock) -> None:
    other = Vote(Kind.SILENT, reason="other", fingerprint="max_ttl=9s", time_ms=1)
    assert "max_ttl=9s" in str(ended(Trial(client), *[other] * 3, DEAD, DEAD))


def test_too_few_servers_behind_the_addresses_end_it(client: Redlock) -> None:
    copy = Vote(Kind.SILENT, reason="the same server", same_as="h:1")
    assert "same server" in str(ended(Trial(client), denied(), denied(), copy, copy, copy))
    assert type(Trial(client).attempt(*[denied()] * 3, copy, copy)) is not TakeConnections, "three servers are enough"


def test_the_holder_is_shown_to_the_waits_of_the_client(client: Redlock) -> None:
    trial = denied_trial(client)
    assert trial.context.waits.holder(NAMES, 1_000) == masked_token(denied().holder)
    assert [(wait.names, wait.owner_label) for wait in trial.context.waits.pending()] == [(NAMES, "me")]


def test_a_place_is_left_although_the_close_fails(client: Redlock) -> None:
    trial = denied_trial(client)

    def close() -> None:
        raise OSError("as a socket")

    trial.wait().close = close  # type: ignore[method-assign]  # of this connection only
    with pytest.raises(OSError, match="as a socket") as error:
        trial.steps.close()
    assert not trial.is_queued, f"while {error} keeps the frames alive"


def test_a_wake_up_for_one_of_two_taken_names_is_passed_on(client: Redlock) -> None:
    trial, _ = waiting_trial(client, ("x", "y"))
    trial.send([WAKE_KEY, b"1"])
    while type(effect := trial.attempt(*[denied()] * 5)) is Sleep:
        trial.send()
    assert type(effect) is Send
    assert (WAKE_KEY in effect.words, b"3000" in effect.words) == (True, True), "for as long as the lease"
    assert type(trial.send()) is Receive
    read = trial.send(1)
    assert type(read) is Send
    assert (WAKE_KEY in read.words, WAKE_KEY[:-1] + b"y" in read.words) == (False, True)


@pytest.mark.parametrize("kind", [Send, Receive])
def test_an_interrupted_return_of_a_wake_up_ends_its_connection(client: Redlock, kind: type[Effect]) -> None:
    """The node may have half of the command, and its reply would be taken for that of the next command."""
    trial, borrowed = waiting_trial(client, ("x", "y"))
    trial.send([WAKE_KEY, b"1"])
    while type(trial.effect) is not Send:
        trial.effect = trial.send() if type(trial.effect) is Sleep else trial.attempt(*[denied()] * 5)
    while type(trial.effect) is not kind:
        trial.send()
    with pytest.raises(Cancelled):
        trial.steps.throw(Cancelled())
    assert borrowed.is_closed
    assert not trial.is_queued


def test_a_wake_up_for_another_resource_is_no_wake_up(client: Redlock) -> None:
    trial, borrowed = waiting_trial(client)
    assert type(trial.send([WAKE_KEY + b"y", b"1"])) is Sleep
    assert borrowed.is_closed


@pytest.fixture
def pool() -> WaiterPool:
    return WaiterPool([Node(f"h:{port}", 100) for port in (1, 2, 3)], Codec(3, "", 10_000))


def test_a_pool_keeps_few_connections_and_closes_the_others(pool: WaiterPool, monkeypatch: pytest.MonkeyPatch) -> None:
    node, connections = pool.nodes[0], [Borrowed() for _ in range(40)]
    for connection in connections:
        pool.give_back(node, connection)  # type: ignore[arg-type]  # as a connection
    assert [connection.is_closed for connection in connections] == [False] * 32 + [True] * 8
    assert pool.kept_for(node) is connections[31]  # type: ignore[comparison-overlap]  # as above
    later = now_ms() + 30_000
    monkeypatch.setattr(waiter_pool, "now_ms", lambda: later)
    assert pool.kept_for(node) is None
    assert [connection.is_closed for connection in connections[:31]] == [True] * 31, "a firewall may have dropped them"


def test_a_dial_that_is_not_taken_is_abandoned(pool: WaiterPool, monkeypatch: pytest.MonkeyPatch) -> None:
    waited, abandoned = [], []

    class Pending:
        def __init__(self, _node: Node) -> None:
            self.done = self

        def wait(self, seconds: float) -> None:
            waited.append(seconds)

        take: Callable[..., None] = staticmethod(lambda _seconds: None)

        def abandon(self) -> None:
            abandoned.append(self)

    monkeypatch.setattr(waiter_pool, "PendingConnection", Pending)
    assert pool.borrow(pool.nodes[0], 60.0) is None
    assert pool.borrow(pool.nodes[0], 0.05) is None
    assert (waited, len(abandoned)) == ([0.1, 0.05], 2), "a node timeout at most"

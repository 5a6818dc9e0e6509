"""`redlock._locking.wait_queue`: the node, the length and the memory of waits, without a node."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import cast

import pytest

from redlock._clock import monotonic
from redlock._core.commands import Release
from redlock._core.votes import Refusal
from redlock._locking.effects import Borrow, Effect, Effects, Receive, Send, Sleep
from redlock._locking.wait_queue import QueuedWaiter
from redlock._locking.waiter_pool import WaiterPool
from redlock._transport.codec import Codec
from redlock._transport.connections import NodeConnections
from redlock._transport.exchange import Exchange
from redlock._transport.node import Node
from redlock._transport.reply_reader import LongReply, ReplyError
from redlock._transport.socket_errors import ConnectionFailed, NoReply
from tests.unit.helpers import DEAD, denied, granted, round_result
from tests.unit.trials import Borrowed

HELD = Refusal(round_result(*[denied(remaining_ms=300)] * 5))
SPLIT = Refusal(round_result(granted(), granted(), denied(), denied(), DEAD))
CODEC = Codec(5, "app:", 10_000)


@pytest.fixture
def nodes() -> list[Node]:
    return [Node(f"h:{port}", 100) for port in range(1, 6)]


@pytest.fixture
def waiters(nodes: list[Node]) -> WaiterPool:
    return WaiterPool(nodes, CODEC)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock of the waits, in a list that a test changes."""
    now = [9.0]
    monkeypatch.setattr("redlock._locking.wait_queue.monotonic", lambda: now[0])
    return now


def fresh(nodes: Sequence[Node]) -> WaiterPool:
    return WaiterPool([Node(node.label, 100) for node in nodes], CODEC)


def test_all_waiters_of_a_resource_wait_at_the_same_node(nodes: list[Node]) -> None:
    for number in range(50):
        names = (f"account:{number}",)
        places = {fresh(nodes).node_for(names), WaiterPool(nodes, CODEC).node_for(names)}
        assert len({node.label for node in places if node is not None}) == 1


def test_a_release_is_sent_last_to_the_node_of_the_waiters(nodes: list[Node]) -> None:
    for number in range(50):
        names = (f"account:{number}",)
        state = NodeConnections(nodes, CODEC, 100, 0)
        order = [link.node for link in state.order(Release(names, "t", 5_000))]
        assert set(order) == set(nodes)
        waiters = WaiterPool(nodes, CODEC)
        assert order[-1] is waiters.node_for(names)
        order[-1].error = "down"
        assert order[-2] is waiters.node_for(names)
        order[-1].error = ""


def test_different_resources_are_waited_for_on_different_nodes(nodes: list[Node], waiters: WaiterPool) -> None:
    assert {waiters.node_for((f"account:{number}",)) for number in range(200)} == set(nodes)


@pytest.fixture
def first(waiters: WaiterPool) -> Node:
    node = waiters.node_for(("x",))
    assert node is not None
    return node


def test_waiters_of_a_failed_node_wait_at_the_same_next_node(waiters: WaiterPool, first: Node) -> None:
    first.mark_down("connection refused", 0)
    second = waiters.node_for(("x",))
    assert second not in {first, None}
    assert waiters.node_for(("x",)) is second
    first.mark_up()
    assert waiters.node_for(("x",)) is first


def test_a_failed_node_is_tried_again_by_one_waiter(waiters: WaiterPool, first: Node) -> None:
    first.mark_down("connection refused", 0)
    second = waiters.node_for(("x",))
    tries = [waiters.node_to_try(("x",), now) for now in (999, 1_000, 1_000)]
    assert tries == [second, first, second]


def test_without_a_healthy_node_there_is_no_place_to_wait(nodes: list[Node], waiters: WaiterPool) -> None:
    for node in nodes:
        node.mark_down("connection refused", 0)
    assert waiters.node_for(("x",)) is None


def test_a_wake_up_ends_the_wait_for_a_held_lock_only(waiters: WaiterPool) -> None:
    waiter = QueuedWaiter(waiters, ("x",), 5_000)
    assert not waiter.is_woken
    length, can_wake = waiter.sleep_ms(HELD, 1, 0.5)
    assert can_wake
    assert length >= 300
    length, can_wake = waiter.sleep_ms(SPLIT, 1, 0.5)
    assert not can_wake
    assert 1 <= length <= 10


def answered(effects: Effects[None]) -> Iterator[Effect]:
    """The effects of a wait whose node answers each read with a wake-up at once."""
    answers: dict[type, object] = {Borrow: "connection", Receive: [b"app:\x01redlock:wake:x", b"1"]}
    with contextlib.suppress(StopIteration):
        effect = next(effects)
        while True:
            yield effect
            effect = effects.send(answers.get(type(effect)))


def waits_of(waiters: WaiterPool, refusals: Sequence[Refusal]) -> list[float]:
    """The sleeps of such a waiter, one list for all attempts."""
    waiter = QueuedWaiter(waiters, ("x",), 5_000)
    slept = []
    for refusal in refusals:
        length_ms, can_wake = waiter.sleep_ms(refusal, 1, 0.0)
        effects = answered(waiter.wait(length_ms, can_wake=can_wake))
        slept += [effect.seconds for effect in effects if isinstance(effect, Sleep)]
    return slept


def test_a_node_that_wakes_without_a_release_is_ignored(waiters: WaiterPool) -> None:
    held = Refusal(round_result(*[denied("holder", remaining_ms=3_000)] * 5))
    slept = waits_of(waiters, [held] * 100)
    assert sum(slept) > 7, "a hundred attempts take longer than the most that a lost wake-up could cost"
    assert max(slept) <= 1


def test_wake_ups_by_one_holder_after_another_count(waiters: WaiterPool) -> None:
    held = [Refusal(round_result(*[denied(f"holder {number // 14}", remaining_ms=3_000)] * 5)) for number in range(98)]
    assert max(waits_of(waiters, held)) < 0.05


def test_a_waiter_that_never_waited_sends_nothing_at_its_end(waiters: WaiterPool) -> None:
    waiter = QueuedWaiter(waiters, ("x",), 5_000)
    assert list(waiter.return_connection(acquired=False)) == []
    waiter.leave()


def test_recent_waits_are_remembered_up_to_two_limits(waiters: WaiterPool) -> None:
    for number in range(2_000):
        waiters.remember((str(number),), 7, 60_000)
    assert waiters.last_wait_ms(("1999",)) == 7
    assert not waiters.last_wait_ms(("0",)), "it remembers without end"
    waiters.remember(("1999",), 0, 60_000)
    assert not waiters.last_wait_ms(("1999",))
    waiters.remember(("1997",), 7, 0)
    assert not waiters.last_wait_ms(("1997",)), "that was long ago"
    waiters.reset_after_fork()
    assert not waiters.last_wait_ms(("1998",))


def requests_of(effects: Effects[None]) -> list[float | None]:
    """The deadlines of the requests and replies of a wait that a wake-up ends at once."""
    return [effect.until for effect in answered(effects) if isinstance(effect, Send | Receive)]


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(("length_ms", "most"), [(40, 9.04), (500, 9.1)])
def test_no_request_of_a_wait_lasts_longer_than_the_wait(waiters: WaiterPool, length_ms: int, most: float) -> None:
    waiter = QueuedWaiter(waiters, ("x", "y"), 5_000)
    end = 9.0 + length_ms / 1000
    assert requests_of(waiter.wait(length_ms, can_wake=True)) == [most, end], "the read"
    returned = requests_of(waiter.wait(length_ms, can_wake=True))
    assert returned == [most, most, most, end], "the return of a wake-up, and the next read"


def begun(waiters: WaiterPool, *answers: object) -> Effects[None]:
    """A wait of half a second that got a connection and the other answers to its first effects."""
    effects = QueuedWaiter(waiters, ("x",), 5_000).wait(500, can_wake=True)
    asked = [next(effects), *map(effects.send, answers)]
    assert [type(effect) for effect in asked] == [Borrow, Send, Receive][: len(asked)]
    return effects


@pytest.mark.parametrize(
    ("now", "failure", "error"),
    [
        (9.4, NoReply(), "no answer within 100 ms"),
        (9.5, NoReply(), ""),
        (9.5, ConnectionFailed("connection refused"), "connection refused"),
    ],
)
def test_a_request_that_ends_with_the_wait_marks_no_node(
    waiters: WaiterPool, first: Node, clock: list[float], *, now: float, failure: Exception, error: str
) -> None:
    borrowed = Borrowed()
    effects = begun(waiters, borrowed)
    clock[0] = now
    assert type(effects.throw(failure)) is Sleep
    assert borrowed.is_closed
    assert first.error == error


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (ReplyError("WRONGTYPE Operation against a key"), ""),
        (ReplyError("BUSY Redis is busy"), "busy with a script"),
        (None, "does not wait as a Redis server does"),
    ],
)
def test_an_error_about_a_key_marks_no_node(waiters: WaiterPool, first: Node, reply: object, error: str) -> None:
    assert begun(waiters, Borrowed(), None).send(reply) == Sleep(0.01 if error else 0.5)
    assert first.error == error


@pytest.mark.usefixtures("clock")
def test_a_long_wake_up_marks_no_node_and_sets_no_rate(nodes: list[Node], waiters: WaiterPool) -> None:
    borrowed = Borrowed()
    assert begun(waiters, borrowed, None).throw(LongReply()) == Sleep(0.5)
    assert borrowed.is_closed
    assert not any(node.error for node in nodes)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(("is_connected", "pause_ms"), [(False, 1_000), (True, 10_000)])
def test_a_node_that_ends_waits_is_avoided_for_longer(
    waiters: WaiterPool, first: Node, monkeypatch: pytest.MonkeyPatch, *, is_connected: bool, pause_ms: int
) -> None:
    """A node that cannot be dialled has one try a second; a node that took the connection would set a rate of lines."""
    monkeypatch.setattr("redlock._locking.wait_queue.now_ms", lambda: 9_000)
    effects = begun(waiters, Borrowed()) if is_connected else begun(waiters)
    assert type(effects.throw(ConnectionFailed("refused"))) is Sleep
    assert not first.may_wait(9_000 + pause_ms - 1)
    assert first.may_wait(9_000 + pause_ms)


def test_a_kept_connection_does_not_hide_that_a_node_is_up_again(nodes: list[Node], waiters: WaiterPool) -> None:
    kept = cast("Exchange", SilentExchange())
    waiters.give_back(nodes[0], kept)
    nodes[0].mark_down("connection refused", 0)
    assert waiters.kept_for(nodes[0]) is None, "only a dial tells"
    nodes[0].mark_up()
    assert waiters.kept_for(nodes[0]) is kept


class SilentExchange:
    """A connection to a node that never answers."""

    sent = b""
    is_closed = False

    def send(self, words: bytes, until: float) -> None:
        assert until <= monotonic(), "this would wait"
        self.sent += words

    def answer(self, _until: float) -> object:
        raise AssertionError("this would wait")

    def close(self) -> None:
        self.is_closed = True


def test_a_wake_up_is_passed_on_without_a_wait() -> None:
    exchange = SilentExchange()
    WaiterPool.pass_on(exchange, b"words")  # type: ignore[arg-type]  # as an exchange
    assert exchange.sent == b"words"
    assert exchange.is_closed

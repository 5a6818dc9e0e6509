"""Targets for replies of hostile nodes: every parser, and every public call. Each raises only documented errors."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from redlock import Redlock, RedlockError
from redlock._core.votes import Refusal, RoundResult, Vote, masked_token
from redlock._locking import failures
from redlock._transport import node_info
from redlock._transport.decoder import VoteReader, decode
from redlock._transport.node import Node, UnsuitableNode, _check_answers
from redlock._transport.reply_reader import ReplyReader, UnreadableReply
from redlock.admin import doctor
from redlock.admin.cluster_status import cluster_status
from redlock.asyncio import Redlock as AsyncRedlock
from redlock.settings import Settings
from tests.fuzz.memory import Answer, Good, LoopSocket, answering

NODES = [Node(f"redis://h:{port}", 5) for port in range(1, 6)]


def parse(sent: Sequence[bytes]) -> None:
    """Every parser, with these bytes as replies, cut at any place."""
    makers: tuple[Callable[[], VoteReader | ReplyReader], ...] = (
        VoteReader,
        ReplyReader,
        functools.partial(ReplyReader, admin=True),
    )
    for make in makers:
        for size in (1, 7, 1_000_000):
            replies: list[object] = []
            reader = make()
            with contextlib.suppress(UnreadableReply):
                for piece in _cut(b"".join(sent), size):
                    replies += reader.read(piece)
            if size > 1:
                _read(replies)


def _cut(data: bytes, size: int) -> list[bytes]:
    # The first pieces are enough: the reader keeps only a few bytes of earlier pieces.
    return [data[at : at + size] for at in range(0, min(len(data), 300 * size), size)]


def _read(replies: Sequence[object]) -> None:
    votes = [decode(reply) for reply in replies]
    for reply in replies:
        node_info.missing(reply)
        node_info.probe_commands(reply)
        node_info.unreported(reply, node_info.fields(reply), (node_info.setting(reply),))
        node_info.fields(reply)
        node_info.setting(reply)
        node_info.time_us(reply)
        node_info.words(reply, 3)
        node_info.scanned(reply)
        node_info.is_resource(node_info.text(reply))
        node_info.number(node_info.text(reply))
        votes += [decode(row[:-1]) for row in node_info.rows(reply, 2) or ()]
        with contextlib.suppress(UnsuitableNode):
            _check_answers([reply, *replies, *[None] * 10][:10], 1)
    for first in range(0, len(votes), 5):
        _elect([*votes[first : first + 5], *votes[:5]][:5])


def _elect(votes: Sequence[Vote]) -> None:
    round_result = RoundResult(tuple(votes), 0, 5)
    for name in (
        "won",
        "may_look_won",
        "reachable",
        "answered",
        "missing",
        "not_denied",
        "largest_fence",
        "agreed_fence",
    ):
        getattr(round_result, name)
    for name in ("holder", "held_by_a_quorum", "is_only_reserved", "free_in_ms", "votes_text"):
        getattr(round_result, name)
    masked_token(round_result.holder or "")
    if len(votes) == len(NODES):
        str(failures.error(NODES, "x", Refusal(round_result)))


@contextlib.contextmanager
def _without_faults() -> Iterator[list[object]]:
    """Fails if a thread ends with an exception, or if the list has any other fault at the end."""
    faults: list[object] = []
    hook, threading.excepthook = threading.excepthook, lambda args: faults.append(args.exc_value)
    try:
        yield faults
    finally:
        threading.excepthook = hook
    assert not faults, faults


def converse(sent: Sequence[bytes], bad: int = 2) -> None:
    """Every public call, where so many nodes of five send these, one item after each command."""
    cycles = [itertools.cycle(sent) for _ in range(bad)]
    answers: list[Answer] = [lambda _, cycle=cycle: next(cycle) for cycle in cycles]  # type: ignore[misc]  # bound now
    answers += [Good(place) for place in range(bad, 5)]
    nodes = dict(enumerate(answers, 1))
    urls = [f"redis://h:{port}" for port in nodes]
    with _without_faults(), answering(nodes):
        with Redlock(urls, node_timeout=0.02, ttl=0.2) as client:
            _use(client)
        cluster_status(urls, timeout=0.02)
        doctor.check(Settings(nodes=",".join(urls)), timeout=0.02)


def _greeting(node: Good, sent: Iterator[bytes]) -> Answer:
    """A node that introduces itself as lock nodes do, and sends these from then on."""
    return lambda words: node(words) if words[0] in {b"INFO", b"HMGET", b"SCRIPT"} else next(sent)


def greeted(sent: Sequence[bytes]) -> None:
    """Every public call, where two nodes introduce themselves as lock nodes do and send these from then on."""
    cycle = itertools.cycle(sent)
    good = [Good(place) for place in range(5)]
    answers: list[Answer] = [*(_greeting(node, cycle) for node in good[:2]), *good[2:]]
    nodes = dict(enumerate(answers, 1))
    with answering(nodes), Redlock([f"redis://h:{port}" for port in nodes], node_timeout=0.02, ttl=0.2) as client:
        _use(client)


def _calls(client: Any) -> list[Callable[[], Any]]:  # noqa: ANN401 - of either driver
    """Every public call of a client."""
    lock = client.lock("x", wait_for_release=False)
    return [
        lambda: lock.acquire(blocking=False),
        lambda: lock.extend(0.05),
        lock.owned,
        lock.locked,
        lambda: client.holder("x"),
        lambda: client.lock("x").acquire(blocking_timeout=0.01),
        lock.release,
        lambda: client.lock(["x", "y"]).acquire(blocking_timeout=0.01),
    ]


def _use(client: Redlock) -> None:
    for call in _calls(client):
        with contextlib.suppress(RedlockError):
            call()


def looped(sent: Sequence[bytes]) -> None:
    """Every public call for asyncio: one node sends these from the start, and another after its introduction."""
    first, good = itertools.cycle(sent), [Good(place) for place in range(5)]
    answers: list[Answer] = [lambda _: next(first), _greeting(good[1], itertools.cycle(sent)), *good[2:]]
    with _without_faults() as faults, answering(dict(enumerate(answers, 1)), LoopSocket):
        asyncio.run(_use_in_a_loop(faults))
        gc.collect()


async def _use_in_a_loop(faults: list[object]) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    async with AsyncRedlock([f"redis://h:{port}" for port in range(1, 6)], node_timeout=0.02, ttl=0.2) as client:
        for call in _calls(client):
            with contextlib.suppress(RedlockError):
                await call()


TARGETS: dict[str, Callable[[Sequence[bytes]], None]] = {
    "parse": parse,
    "converse": converse,
    "without-quorum": lambda sent: converse(sent, 5),
    "greeted": greeted,
    "looped": looped,
}

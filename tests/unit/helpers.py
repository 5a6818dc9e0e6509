"""Votes, round results and a hand that drives the generators of the protocol, all without a node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from redlock._core.commands import Acquire, Command, Confirm, Extend, Inspect, Release, Repair, Round, Wait
from redlock._core.protocol import Steps
from redlock._core.vote_tally import VoteTally
from redlock._core.votes import UNANSWERED, Grant, Kind, RoundResult, Vote, silent
from redlock._transport.codec import SCRIPTS, Codec, Script, run_id_argument
from redlock._transport.reply_reader import ReplyReader

T = TypeVar("T")


class Call(NamedTuple):
    """A script with its keys and arguments, without the run_id, the last argument of scripts that admit."""

    script: Script
    keys: tuple[str, ...]
    arguments: tuple[str, ...]


def script_call(codec: Codec, command: Command) -> Call:
    """The call in the bytes of a command, as a server reads them."""
    script = SCRIPTS[type(command)]
    (words,) = ReplyReader(admin=True).read(codec.encode(command) + (run_id_argument("") if script.admits else b""))
    assert isinstance(words, list)
    name, sha, count, *rest = [word.decode() for word in words]
    assert (name, sha) == ("EVALSHA", script.sha.decode())
    keys, arguments = rest[: int(count)], rest[int(count) :]
    return Call(script, tuple(keys), tuple(arguments[:-1] if script.admits else arguments))


SECRET = "0123456789abcdef0123456789abcdef"  # noqa: S105 - an example of one
TOKEN = f"{SECRET}:task-1@host-a"
OTHER = "fedcba9876543210fedcba9876543210:task-2@host-b"
NAMES = ("account:42",)
TTL_MS = 5_000
DEADLINE_MS = 5_947
"""5,000 ms asked for at 1,000, less 52 ms of drift and the millisecond of the floored clock."""

DEAD = silent("connection refused")


def granted(fence: int = 7) -> Vote:
    return Vote(Kind.GRANTED, fence)


def denied(holder: str = OTHER, remaining_ms: int | None = 3_000, fence: int = 0) -> Vote:
    return Vote(Kind.DENIED, fence, holder, remaining_ms)


ABSENT = denied(holder="", remaining_ms=0)
"""The node may vote and says that the key is not there."""


def round_result(*votes: Vote, sent_ms: int = 1_000, done_ms: int = 1_005) -> RoundResult:
    return RoundResult(votes, sent_ms, done_ms)


def each_command(*names: str) -> list[Command]:
    """A command of each kind for these resources; `Inspect` is for the last one."""
    return [
        Acquire(names, "t", 5_000, 77, woken=True, waits_ms=900),
        Confirm(names, "t", 78),
        Extend(names, "t", 5_000),
        Repair(names, "t", 5_000, 78),
        Release(names, "t", 5_000),
        Inspect(names[-1:]),
    ]


def attempt(ttl_ms: int = TTL_MS) -> Acquire:
    return Acquire(NAMES, TOKEN, ttl_ms, proposed=7)


def grant(deadline_ms: int = DEADLINE_MS) -> Grant:
    votes = round_result(*[granted()] * 3, UNANSWERED, UNANSWERED)
    return Grant(NAMES, TOKEN, 7, deadline_ms, TTL_MS, 1, votes)


def drive(steps: Steps[T], *round_results: RoundResult) -> tuple[T, list[Round]]:
    """Answer the rounds with these results, in order; give the outcome and all rounds that were asked for.

    Rounds with `Wait.SENT` need no result.
    """
    left, rounds = list(round_results), []
    try:
        round_ = next(steps)
        while True:
            rounds.append(round_)
            unheard = round_result(*[UNANSWERED] * 5)
            round_ = steps.send(unheard if round_.wait is Wait.SENT else left.pop(0))
    except StopIteration as stop:
        assert not left, "it ended without all rounds"
        result: T = stop.value
        return result, rounds


def heard(round_: Round, votes: Sequence[Vote]) -> RoundResult:
    """The votes as a driver gets them: dead nodes are known as dead, the other nodes answer in this order."""
    tally = VoteTally(round_, len(votes), 1_000)
    for place, vote in sorted(enumerate(votes), key=lambda one: one[1] != DEAD):
        if vote == DEAD or not tally.is_over:
            tally.cast(place, vote)
    return tally.close(1_005)

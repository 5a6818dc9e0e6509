"""An acquisition; a test performs its effects."""

from __future__ import annotations

from typing import Any

import pytest

from redlock import Redlock
from redlock._clock import now_ms
from redlock._core.commands import Acquire, Release, Round, Wait
from redlock._core.votes import Grant, Vote
from redlock._locking.acquisition import Acquisition
from redlock._locking.effects import Borrow, Effect, Receive, Send, TakeConnections
from tests.unit.helpers import denied, round_result

NAMES = ("x",)
WAKE_KEY = b"\x01redlock:wake:x"
CONNECTIONS = object()


class Cancelled(BaseException):
    """As a cancellation, or as an exception of a signal handler."""


class Borrowed:
    """A waiting connection."""

    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


class Trial:
    """An acquisition; the test performs its effects."""

    def __init__(self, client: Redlock, timeout_ms: int | None = 5_000, names: tuple[str, ...] = NAMES) -> None:
        self.context, self.names = client._context, names
        # As if each trial were in a thread of its own.
        self.context.waiters.local_queue._running = object
        self.granted: list[tuple[Grant, Any, int]] = []
        self.undone = 0
        lease = client.lease(names, ttl_ms=3_000, owner_label="me")
        lease._accept_grant = lambda *args: self.granted.append(args)  # type: ignore[method-assign]  # noted here
        lease._undo = self._undo  # type: ignore[method-assign]  # as above
        self.steps = Acquisition(lease, timeout_ms).steps()
        self.effect: Effect = next(self.steps)

    def _undo(self) -> None:
        self.undone += 1

    def send(self, result: object = None) -> Effect:
        self.effect = self.steps.send(result)
        return self.effect

    def attempt(self, *votes: Vote) -> Effect:
        """Perform an attempt with these votes, and its cancel."""
        assert type(self.effect) is TakeConnections
        round_ = self.send(CONNECTIONS)
        assert type(round_) is Round
        assert isinstance(round_.command, Acquire)
        self.command = round_.command
        sent_ms = now_ms()
        effect = self.send(round_result(*votes, sent_ms=sent_ms, done_ms=sent_ms + 5))
        if type(effect) is Round:
            assert type(effect.command) is Release
            assert effect.wait is Wait.SENT
            effect = self.send(round_result(*votes))
        return effect

    def is_over(self, *votes: Vote) -> None:
        with pytest.raises(StopIteration):
            self.attempt(*votes)

    @property
    def is_queued(self) -> bool:
        """Whether the acquisition has a place in the local queue."""
        return self.context.waiters.local_queue.length(self.names) > 0

    def wait(self) -> Borrowed:
        """Perform the start of a wait for a wake-up."""
        assert type(self.effect) is Borrow
        borrowed = Borrowed()
        effect = self.send(borrowed)
        assert type(effect) is Send
        assert b"BLPOP" in effect.words
        assert type(self.send()) is Receive
        return borrowed


def denied_trial(client: Redlock, names: tuple[str, ...] = NAMES) -> Trial:
    """An acquisition after its first attempt, which all nodes have denied."""
    trial = Trial(client, names=names)
    trial.attempt(*[denied()] * 5)
    return trial


def waiting_trial(client: Redlock, names: tuple[str, ...] = NAMES) -> tuple[Trial, Borrowed]:
    """Such an acquisition that waits for a wake-up, and its connection."""
    trial = denied_trial(client, names)
    return trial, trial.wait()

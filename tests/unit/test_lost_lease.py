"""`redlock.celery.lost_lease`: the signal of a lost lease, and whose handler is there when."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from redlock import ConfigurationError, LockLost
from redlock.celery import lost_lease
from tests.integration.threads import in_threads


def lease(*, lost: bool = False) -> Any:  # noqa: ANN401 - as much of a lease as is looked at
    return SimpleNamespace(is_lost=lost, resource="x", ensure_valid=lambda: None)


def from_before(*_: object) -> None:
    """The handler from before."""


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    before = signal.signal(signal.SIGUSR2, from_before)
    yield
    signal.signal(signal.SIGUSR2, before)


def test_the_handler_from_before_is_restored() -> None:
    with lost_lease.interruptible(lease()):
        assert signal.getsignal(signal.SIGUSR2) is not from_before
        with lost_lease.interruptible(lease()):
            pass
        assert signal.getsignal(signal.SIGUSR2) is not from_before
    assert signal.getsignal(signal.SIGUSR2) is from_before
    with pytest.raises(ZeroDivisionError), lost_lease.interruptible(lease()):
        _ = 1 / 0
    assert signal.getsignal(signal.SIGUSR2) is from_before
    assert not lost_lease._running


def test_a_lease_that_is_lost_before_the_body_never_enters() -> None:
    def refuse() -> None:
        raise LockLost("x", "lost")

    lost, entered = lease(), False
    lost.ensure_valid = refuse
    with pytest.raises(LockLost), lost_lease.interruptible(lost):
        entered = True
    assert not entered
    assert signal.getsignal(signal.SIGUSR2) is from_before


def test_a_lost_lease_interrupts_its_body() -> None:
    lost, after = lease(), False
    with pytest.raises(LockLost, match="renewed") as raised, lost_lease.interruptible(lost):
        lost.is_lost = True
        lost_lease.interrupt(lost)
        after = True
    assert not after
    assert raised.value.why == "it could not be renewed"


def test_a_signal_on_its_way_arrives_before_the_handler_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread is about to send one. The default action of the signal would end the process."""
    steps: list[object] = []

    def step(name: str) -> None:
        steps.append((name, signal.getsignal(signal.SIGUSR2) is not from_before))

    def sleep(seconds: float) -> None:
        step(f"sleep {seconds}")
        lost_lease._sending.clear()

    monkeypatch.setattr(lost_lease, "time", SimpleNamespace(sleep=sleep))
    with lost_lease.interruptible(lease()):
        lost_lease._sending.append(lease())
        monkeypatch.setattr(signal, "pthread_sigmask", lambda *_: step("system call"))
    assert steps == [("sleep 0", True), ("system call", True)]


def test_only_a_main_thread_with_the_signal_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[str] = []

    def enter() -> None:
        with pytest.raises(ConfigurationError) as error, lost_lease.interruptible(lease()):
            pass
        refused.append(str(error.value))

    in_threads(enter)
    monkeypatch.setattr(lost_lease, "SIGNAL", None)
    enter()
    assert refused == [
        "on_lost='raise' needs the prefork or solo pool: here tasks run in no main thread",
        "on_lost='raise' needs the signal SIGUSR2, which this platform does not have",
    ]


def test_an_outer_lease_that_is_lost_interrupts_the_inner_body() -> None:
    outer, after = lease(), False
    with pytest.raises(LockLost), lost_lease.interruptible(outer), lost_lease.interruptible(lease()):
        outer.is_lost = True
        lost_lease.interrupt(outer)
        after = True
    assert not after
    assert signal.getsignal(signal.SIGUSR2) is from_before


def test_a_body_that_has_ended_is_sent_no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[object] = []
    monkeypatch.setattr(signal, "pthread_kill", lambda *what: sent.append(what))
    over = lease()
    with lost_lease.interruptible(over):
        pass
    over.is_lost = True
    lost_lease.interrupt(over)
    assert not sent

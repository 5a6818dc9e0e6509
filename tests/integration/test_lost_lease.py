"""Tests of `on_lost="raise"` in tasks that call each other, and of a signal at the last possible moment."""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from redlock import LockLost
from redlock.celery import client_for, current_lease, locked, lost_lease
from redlock.testing.redis_server import Cluster
from tests.integration.tools import in_a_fork, run_out

BODIES = 3_000


@pytest.fixture
def app(nodes: Cluster) -> Iterator[Celery]:
    """An app without a broker, for direct calls of its tasks."""
    app = Celery("interrupted", broker="memory://", set_as_current=True)
    app.conf.update(redlock_nodes=nodes.urls, redlock_ttl=5.0, redlock_node_timeout=2.0)
    yield app
    client_for(app).close()


def test_a_loss_at_the_end_of_the_body_kills_no_process() -> None:
    """Another thread finds the loss again and again while bodies begin and end."""

    def in_the_child() -> int:
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
        lease: Any = SimpleNamespace(is_lost=True, resource="x", ensure_valid=lambda: None)
        over, raised = threading.Event(), 0

        def find_it_lost() -> None:
            while not over.is_set():
                lost_lease.interrupt(lease)

        thread = threading.Thread(target=find_it_lost, daemon=True)
        thread.start()
        for _ in range(BODIES):
            try:
                with lost_lease.interruptible(lease):
                    pass
            except LockLost:
                raised += 1
        over.set()
        thread.join()
        return raised

    assert isinstance(in_a_fork(in_the_child), int), "a signal killed the child"


@pytest.mark.parametrize("kind", ["default", "C code"])
def test_a_handler_that_python_does_not_know_ends_no_process(kind: str) -> None:
    """For Python the handler of `faulthandler` is the default action. To restore that would let the signal kill."""

    def in_the_child() -> bool:
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
        if kind == "C code":
            faulthandler.register(signal.SIGUSR2)
        lease: Any = SimpleNamespace(is_lost=False, resource="x", ensure_valid=lambda: None)
        for _ in range(2):
            with lost_lease.interruptible(lease):
                pass
        os.kill(os.getpid(), signal.SIGUSR2)
        return True

    assert in_a_fork(in_the_child) is True


def test_an_inner_task_that_wants_it_is_interrupted(nodes: Cluster, app: Celery) -> None:
    """This holds also if the calling task only checks, and both tasks share a lease."""
    seen: list[str] = []

    @app.task
    @locked("shared", on_lost="raise", reentrant=True)
    def inner() -> None:
        seen.append("inner")
        run_out(nodes.servers, "shared")
        try:
            time.sleep(300)  # the interruption ends it
        except LockLost:
            seen.append("interrupted")
            raise

    @app.task
    @locked("shared")
    def outer() -> None:
        seen.append(str(current_lease().fence > 0))
        inner()

    with pytest.raises(LockLost):
        outer()
    assert seen == ["True", "inner", "interrupted"]


def test_the_handler_stays_until_a_signal_on_its_way_has_arrived() -> None:
    """Another thread has looked whether the body is inside, and is about to send."""
    before, seen = signal.SIG_IGN, set[object]()
    at_first = signal.signal(signal.SIGUSR2, before)
    body: Any = SimpleNamespace(is_lost=False, resource="x", ensure_valid=lambda: None)
    lost_lease._sending.append(body)

    def send_late() -> None:
        while lost_lease._running:
            time.sleep(0)  # the turn of the thread that is looked at
        for _ in range(1_000):
            seen.add(signal.getsignal(signal.SIGUSR2))
            time.sleep(0)  # as above
        lost_lease._sending.remove(body)

    thread = threading.Thread(target=send_late, daemon=True)
    with lost_lease.interruptible(body):
        thread.start()
    assert signal.signal(signal.SIGUSR2, at_first) is before
    thread.join(100)
    assert before not in seen

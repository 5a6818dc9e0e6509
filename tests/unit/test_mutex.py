"""`redlock._mutex`: a single turn at a time, and none is lost with the code that had it."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from typing import Any

import pytest

from redlock._mutex import Mutex, Turn
from tests.integration.tracer import Interrupted, Tracer, instructions


def taken(mutex: Mutex) -> Turn[Mutex]:
    turn = mutex.turn()
    assert turn is not None
    return turn


def test_one_turn_at_a_time_is_taken() -> None:
    mutex = Mutex()
    with taken(mutex) as value:
        assert value is mutex
        assert mutex.turn() is None
    taken(mutex).end()


def test_a_turn_that_is_dropped_makes_the_mutex_free() -> None:
    mutex = Mutex()
    for _ in range(3):
        turn = taken(mutex)
        del turn
        assert taken(mutex), "and this one is dropped too"


def test_a_turn_that_ended_keeps_no_later_one_alive() -> None:
    mutex = Mutex()
    first = taken(mutex)
    first.end()
    second = taken(mutex)
    first.end()
    assert mutex.turn() is None, "a turn ends once"
    del second
    assert mutex.turn() is not None


def test_an_interrupted_end_returns_the_permit_once() -> None:
    for place in instructions(lambda: taken(Mutex()).end(), within=Turn.end):
        mutex = Mutex()
        turn = taken(mutex)
        tracer = Tracer(place)
        with suppress(Interrupted):
            tracer.run(turn.end)
        assert tracer.struck == place
        turn.end()
        turns = [mutex.turn(), mutex.turn()]
        assert [one is not None for one in turns] == [True, False], place


@pytest.mark.parametrize("seconds", [0.0, 100.0])
def test_an_interrupted_turn_after_a_dropped_one_is_free(seconds: float) -> None:
    mutex = Mutex()

    def use() -> None:
        with mutex.turn(seconds) or nullcontext():
            pass

    taken(mutex)
    for number in range(len(instructions(use))):
        mutex = Mutex()
        taken(mutex)
        for _ in range(2):
            with suppress(Interrupted):
                Tracer(number).run(use)
        turns = [mutex.turn(), mutex.turn()]
        assert [one is not None for one in turns] == [True, False], number


class Dropping:
    """The queue of a permit that is dropped when a second thread waits."""

    def __init__(self, mutex: Mutex) -> None:
        self._turns, self._free = [taken(mutex)], mutex._permits.free
        self.is_awaited = threading.Event()
        self.put, self.get_nowait = self._free.put, self._free.get_nowait

    def get(self, timeout: float) -> object:
        """Wait for the permit."""
        if self.is_awaited.is_set():
            self._turns.clear()
        self.is_awaited.set()
        return self._free.get(timeout=timeout)


def test_an_interrupted_wait_lets_the_others_wake() -> None:
    def strike(number: int) -> Tracer:
        mutex, tracer = Mutex(), Tracer(number)
        permits: Any = mutex._permits
        permits.free = queue = Dropping(mutex)

        def first() -> None:
            with suppress(Interrupted):
                tracer.run(lambda: mutex.turn(100.0))
            # Also after an exception before the wait.
            queue.is_awaited.set()

        thread = threading.Thread(target=first, daemon=True)
        thread.start()
        assert queue.is_awaited.wait(100)
        assert mutex.turn(30.0), f"no other thread wakes after {tracer.struck}"
        thread.join(100)
        return tracer

    for number in range(len(strike(-1).places)):
        strike(number)


def test_a_generator_that_the_collector_ends_returns_no_permit() -> None:
    """Before that, the collector has told the mutex that the permit was dropped."""
    mutex = Mutex()

    def hold() -> Iterator[None]:
        turn = taken(mutex)
        try:
            yield
        finally:
            turn.end()

    circle: list[object] = [hold()]
    circle.append(circle)
    next(circle[0])  # type: ignore[call-overload]  # it is the generator
    assert mutex.turn() is None
    del circle
    gc.collect()
    first = mutex.turn()
    assert first is not None
    assert mutex.turn() is None


def test_a_thread_waits_for_its_turn() -> None:
    mutex, turns = Mutex(), list[object]()
    turn = taken(mutex)
    thread = threading.Thread(target=lambda: turns.append(mutex.turn(30.0)), daemon=True)
    thread.start()
    turn.end()
    thread.join(30)
    assert turns != [None]
    assert len(turns) == 1
    assert mutex.turn(0.001) is None

"""The queue inside a process: who is at the front, who comes next, and how one leaves it."""

from __future__ import annotations

import threading

import pytest

from redlock._locking.local_wait_queue import LocalWaitQueue, Place

NAMES = ("account:42",)
LONG = 30.0


class Comer:
    """A thread that comes to the gate, and says when it is at the front."""

    def __init__(self, gate: LocalWaitQueue, order: list[int], number: int) -> None:
        self._gate, self._order, self._number = gate, order, number
        self.at_the_front = threading.Event()
        self.place: Place | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        self.place = self._gate.join(NAMES)
        self.place.wait(LONG)
        self._order.append(self._number)
        self.at_the_front.set()

    def come(self) -> None:
        """Come, and be in the line when this returns."""
        before = self._gate.length(NAMES)
        self._thread.start()
        while self._gate.length(NAMES) == before:
            self._thread.join(0.001)

    def leave(self) -> None:
        """Leave the line."""
        assert self.place is not None
        self.place.leave()


def test_the_first_does_not_wait_and_leaves_nothing_behind() -> None:
    gate = LocalWaitQueue()
    first = gate.join(NAMES)
    assert first.wait(LONG) is False
    assert gate.has_waiters(NAMES)
    assert first.wait(LONG) is False, "it is still there"
    first.leave()
    assert not gate.has_waiters(NAMES)
    assert not gate._queues


def test_it_is_first_come_first_served() -> None:
    gate, order = LocalWaitQueue(), list[int]()
    first = gate.join(NAMES)
    comers = [Comer(gate, order, number) for number in range(5)]
    for comer in comers:
        comer.come()
    before: Comer | Place = first
    for comer in comers:
        assert not comer.at_the_front.is_set()
        before.leave()
        assert comer.at_the_front.wait(LONG)
        before = comer
    assert order == [0, 1, 2, 3, 4]
    before.leave()
    assert not gate.has_waiters(NAMES)


def test_a_thread_that_waited_long_enough_keeps_its_place() -> None:
    gate, order = LocalWaitQueue(), list[int]()
    first, second = gate.join(NAMES), gate.join(NAMES)
    assert second.wait(0) is True
    comer = Comer(gate, order, 3)
    comer.come()
    first.leave()
    assert second.wait(0) is False, "it is at the front"
    assert not comer.at_the_front.is_set()
    second.leave()
    assert comer.at_the_front.wait(LONG)


def test_leaving_from_the_middle_delays_no_other() -> None:
    gate, order = LocalWaitQueue(), list[int]()
    first, second = gate.join(NAMES), gate.join(NAMES)
    comer = Comer(gate, order, 3)
    comer.come()
    second.leave()
    assert not comer.at_the_front.is_set()
    first.leave()
    assert comer.at_the_front.wait(LONG)


def test_other_names_have_a_line_of_their_own() -> None:
    gate = LocalWaitQueue()
    places = [gate.join(names) for names in (NAMES, ("account:43",), (*NAMES, "account:43"))]
    assert not any(place.wait(LONG) for place in places)


def test_leaving_twice_is_no_error_and_removes_one_place() -> None:
    gate = LocalWaitQueue()
    first, second = gate.join(NAMES), gate.join(NAMES)
    first.leave()
    first.leave()
    assert gate.length(NAMES) == 1
    assert second.wait(0) is False


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_place_that_is_dropped_is_given_up(which: int) -> None:
    gate = LocalWaitQueue()
    places = [gate.join(NAMES) for _ in range(3)]
    del places[which]
    assert gate.length(NAMES) == 2
    assert [place.wait(0) for place in places] == [False, True]

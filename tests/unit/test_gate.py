"""The queue inside a process: who is at the front, who comes next, and how one leaves it."""

from __future__ import annotations

import threading

import pytest

from redlock.gate import Gate

NAMES = ("account:42",)
LONG = 30.0


class Comer:
    """A thread that comes to the gate, and says when it is at the front."""

    def __init__(self, gate: Gate, order: list[int], number: int) -> None:
        self._gate, self._order, self._number = gate, order, number
        self.at_the_front = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        self._gate.enter(NAMES, self, LONG)
        self._order.append(self._number)
        self.at_the_front.set()

    def come(self) -> None:
        """Come, and be in the line when this returns."""
        before = self._gate.length(NAMES)
        self._thread.start()
        while self._gate.length(NAMES) == before:
            self._thread.join(0.001)


def test_who_comes_first_does_not_wait_and_leaves_nothing_behind() -> None:
    gate = Gate()
    assert gate.enter(NAMES, "first", LONG) is False
    assert gate.has_line(NAMES)
    assert gate.enter(NAMES, "first", LONG) is False, "it is still there"
    gate.leave(NAMES, "first")
    assert not gate.has_line(NAMES)


def test_it_is_first_come_first_served() -> None:
    gate, order = Gate(), list[int]()
    gate.enter(NAMES, "first", LONG)
    comers = [Comer(gate, order, number) for number in range(5)]
    for comer in comers:
        comer.come()
    before: object = "first"
    for comer in comers:
        assert not comer.at_the_front.is_set()
        gate.leave(NAMES, before)
        assert comer.at_the_front.wait(LONG)
        before = comer
    assert order == [0, 1, 2, 3, 4]
    gate.leave(NAMES, before)
    assert not gate.has_line(NAMES)


def test_who_has_waited_for_long_enough_keeps_its_place() -> None:
    gate, order = Gate(), list[int]()
    gate.enter(NAMES, "first", LONG)
    assert gate.enter(NAMES, "second", 0) is True
    comer = Comer(gate, order, 3)
    comer.come()
    gate.leave(NAMES, "first")
    assert gate.enter(NAMES, "second", 0) is False, "it is at the front"
    assert not comer.at_the_front.is_set()
    gate.leave(NAMES, "second")
    assert comer.at_the_front.wait(LONG)


def test_who_leaves_from_the_middle_holds_up_nobody() -> None:
    gate, order = Gate(), list[int]()
    gate.enter(NAMES, "first", LONG)
    gate.enter(NAMES, "second", 0)
    comer = Comer(gate, order, 3)
    comer.come()
    gate.leave(NAMES, "second")
    assert not comer.at_the_front.is_set()
    gate.leave(NAMES, "first")
    assert comer.at_the_front.wait(LONG)


def test_other_names_have_a_line_of_their_own() -> None:
    gate = Gate()
    gate.enter(NAMES, "first", LONG)
    assert gate.enter(("account:43",), "second", LONG) is False
    assert gate.enter((*NAMES, "account:43"), "third", LONG) is False


@pytest.mark.parametrize("who", ["a stranger", "first"])
def test_leaving_mends_every_state(who: str) -> None:
    gate = Gate()
    gate.leave(NAMES, who)
    gate.enter(NAMES, "first", LONG)
    gate.leave(NAMES, who)
    gate.leave(NAMES, who)
    assert gate.has_line(NAMES) == (who != "first")

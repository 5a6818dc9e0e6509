"""The queue inside a process: who is at the front, who comes next, and how one leaves it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from redlock.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = ("account:42",)
LONG = 30.0


class Comer:
    """A thread that comes to the gate, and says when it is at the front."""

    def __init__(self, gate: Gate, order: list[int], number: int) -> None:
        self._gate, self._order, self._number = gate, order, number
        self.at_the_front = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        in_front, _ = self._gate.enter(NAMES, LONG)
        if in_front:
            self._order.append(self._number)
            self.at_the_front.set()

    def come(self) -> None:
        """Come, and be in the line when this returns."""
        before = self._gate.length(NAMES)
        self._thread.start()
        while self._gate.length(NAMES) == before and not self.at_the_front.is_set():
            self._thread.join(0.001)


def test_who_comes_first_does_not_wait_and_leaves_nothing_behind() -> None:
    gate = Gate()
    assert gate.enter(NAMES, 0) == (True, False)
    assert gate.has_line(NAMES)
    gate.leave(NAMES)
    assert not gate.has_line(NAMES)


def test_it_is_first_come_first_served() -> None:
    gate, order = Gate(), list[int]()
    gate.enter(NAMES, 0)
    comers = [Comer(gate, order, number) for number in range(5)]
    for comer in comers:
        comer.come()
    for comer in comers:
        gate.leave(NAMES)
        assert comer.at_the_front.wait(LONG)
    assert order == [0, 1, 2, 3, 4]
    gate.leave(NAMES)
    assert not gate.has_line(NAMES)


def test_who_has_waited_for_long_enough_goes_on_without_its_turn_and_holds_up_nobody() -> None:
    gate, order = Gate(), list[int]()
    gate.enter(NAMES, 0)
    assert gate.enter(NAMES, 0) == (False, True)
    comer = Comer(gate, order, 1)
    comer.come()
    gate.leave(NAMES)
    assert comer.at_the_front.wait(LONG)


def test_other_names_have_a_line_of_their_own() -> None:
    gate = Gate()
    gate.enter(NAMES, 0)
    assert gate.enter(("account:43",), 0) == (True, False)
    assert gate.enter((*NAMES, "account:43"), 0) == (True, False)


class Interrupted(BaseException):
    """A signal's exception."""


class Striking:
    """A turn that is never given: a signal strikes whoever waits for it."""

    def __init__(self, before: Callable[[], None]) -> None:
        self._before = before

    def acquire(self, timeout: float | None = None) -> bool:
        """Taken at first; who waits is struck."""
        if timeout is None:
            return True
        self._before()
        raise Interrupted

    def release(self) -> None:
        """Its turn."""


@pytest.mark.parametrize("its_turn", [False, True])
def test_an_exception_in_the_line_leaves_it_as_if_one_had_never_come(
    monkeypatch: pytest.MonkeyPatch, *, its_turn: bool
) -> None:
    gate = Gate()
    gate.enter(NAMES, 0)
    # In the second case it is struck at the very moment at which the front is given to it.
    turn = Striking((lambda: gate.leave(NAMES)) if its_turn else lambda: None)
    monkeypatch.setattr("redlock.gate._turn", lambda: turn)
    with pytest.raises(Interrupted):
        gate.enter(NAMES, LONG)
    assert gate.length(NAMES) == (0 if its_turn else 1)

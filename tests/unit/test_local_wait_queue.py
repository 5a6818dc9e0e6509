"""`redlock._locking.local_wait_queue`: the front of the queue, its order, and how a thread leaves."""

from __future__ import annotations

import threading
from contextlib import suppress
from queue import Empty, SimpleQueue

import pytest

from redlock._locking.local_wait_queue import LocalWaitQueue, Place

NAMES = ("account:42",)
LONG = 30.0


def wait(place: Place, seconds: float) -> bool:
    """Wait as the driver for threads does; False if the place is at the front."""
    if place.is_first:
        return False
    with suppress(Empty):
        place.signal.get(timeout=seconds)
    return True


class WaitingThread:
    def __init__(self, queue: LocalWaitQueue, order: list[int], number: int) -> None:
        self._queue, self._order, self._number = queue, order, number
        self.at_the_front = threading.Event()
        self.place: Place | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        self.place = self._queue.join(NAMES)
        if not self.place.is_first:
            try:
                self.place.signal.get(timeout=LONG)
            except Empty:
                # The thread was not woken.
                return
        self._order.append(self._number)
        self.at_the_front.set()

    def join_queue(self) -> None:
        """Join the queue; the thread has its place when this returns."""
        before = self._queue.length(NAMES)
        self._thread.start()
        while self._queue.length(NAMES) == before:
            self._thread.join(0.001)

    def leave(self) -> None:
        assert self.place is not None
        self.place.leave()


def test_the_first_does_not_wait_and_leaves_nothing_behind() -> None:
    queue = LocalWaitQueue(SimpleQueue)
    first = queue.join(NAMES)
    assert wait(first, LONG) is False
    assert queue.length(NAMES)
    assert wait(first, LONG) is False, "it is still there"
    first.leave()
    assert not queue.length(NAMES)
    assert not queue._queues


def test_it_is_first_come_first_served() -> None:
    queue, order = LocalWaitQueue(SimpleQueue), list[int]()
    first = queue.join(NAMES)
    threads = [WaitingThread(queue, order, number) for number in range(5)]
    for thread in threads:
        thread.join_queue()
    before: WaitingThread | Place = first
    for thread in threads:
        assert not thread.at_the_front.is_set()
        before.leave()
        assert thread.at_the_front.wait(LONG)
        before = thread
    assert order == [0, 1, 2, 3, 4]
    before.leave()
    assert not queue.length(NAMES)


def test_a_thread_that_waited_long_enough_keeps_its_place() -> None:
    queue, order = LocalWaitQueue(SimpleQueue), list[int]()
    first, second = queue.join(NAMES), queue.join(NAMES)
    assert wait(second, 0) is True
    thread = WaitingThread(queue, order, 3)
    thread.join_queue()
    first.leave()
    assert wait(second, 0) is False, "it is at the front"
    assert not thread.at_the_front.is_set()
    second.leave()
    assert thread.at_the_front.wait(LONG)


def test_leaving_from_the_middle_delays_no_other() -> None:
    queue, order = LocalWaitQueue(SimpleQueue), list[int]()
    first, second = queue.join(NAMES), queue.join(NAMES)
    thread = WaitingThread(queue, order, 3)
    thread.join_queue()
    second.leave()
    assert not thread.at_the_front.is_set()
    first.leave()
    assert thread.at_the_front.wait(LONG)


def test_a_signal_handler_is_before_the_waiter_it_interrupts() -> None:
    queue = LocalWaitQueue(SimpleQueue, iter("abcb").__next__)
    first, interrupted, after, handler = places = [queue.join(NAMES) for _ in range(4)]
    assert [place.is_first for place in places] == [True, False, False, False]
    first.leave()
    assert [place.is_first for place in places[1:]] == [True, False, True]
    assert [place.signal.empty() for place in places[1:]] == [False, True, False]
    handler.leave()
    interrupted.leave()
    assert after.is_first


def test_other_names_have_a_line_of_their_own() -> None:
    queue = LocalWaitQueue(SimpleQueue)
    places = [queue.join(names) for names in (NAMES, ("account:43",), (*NAMES, "account:43"))]
    assert not any(wait(place, LONG) for place in places)


def test_leaving_twice_is_no_error_and_removes_one_place() -> None:
    queue = LocalWaitQueue(SimpleQueue)
    first, second = queue.join(NAMES), queue.join(NAMES)
    first.leave()
    first.leave()
    assert queue.length(NAMES) == 1
    assert wait(second, 0) is False


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_place_that_is_dropped_is_given_up(which: int) -> None:
    queue = LocalWaitQueue(SimpleQueue)
    places = [queue.join(NAMES) for _ in range(3)]
    del places[which]
    assert queue.length(NAMES) == 2
    assert [wait(place, 0) for place in places] == [False, True]

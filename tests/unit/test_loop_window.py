"""The window of an event loop: a limited number of tasks passes at a time, in order, and no place is lost."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from redlock.asyncio._driver import Window
from tests.integration.tracer import Interrupted, Place, Tracer, instructions

NAMES = ("window",)


async def passes(window: Window, attempt: object) -> None:
    try:
        await window.enter(attempt, NAMES)
    finally:
        window.leave(attempt, NAMES)


async def test_tasks_pass_in_the_order_of_their_arrival() -> None:
    window, passed = Window(2), []

    async def one(number: int) -> None:
        await window.enter(number, NAMES)
        passed.append(number)
        await asyncio.sleep(0)  # the others run meanwhile
        window.leave(number, NAMES)

    await asyncio.gather(*(one(number) for number in range(6)))
    assert (window._inside, window.attempts) == (set(), {})
    assert passed == list(range(6))


@pytest.mark.parametrize("has_place", [False, True])
async def test_a_cancelled_task_keeps_no_place(has_place: bool) -> None:
    window = Window(1)
    await window.enter(1, NAMES)
    task = asyncio.create_task(passes(window, 2))
    await asyncio.sleep(0)  # the task runs, and waits
    if has_place:
        # The place comes, and the task is cancelled before it runs.
        window.leave(1, NAMES)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    if not has_place:
        window.leave(1, NAMES)
    assert (window._inside, window.attempts) == (set(), {})
    await window.enter(3, NAMES)


async def test_a_task_whose_time_is_over_keeps_no_place() -> None:
    window = Window(1)
    assert await window.enter(1, NAMES)
    assert not await window.enter(2, NAMES, 0)
    window.leave(2, NAMES)
    window.leave(1, NAMES)
    assert (window._inside, window.attempts) == (set(), {})
    assert await window.enter(3, NAMES, 0)


def test_an_interrupted_end_gives_the_place_to_the_next_task() -> None:
    def left(place: Place | None) -> list[Place]:
        async def main() -> list[Place]:
            window = Window(1)
            await window.enter(1, NAMES)
            following = asyncio.create_task(window.enter(2, NAMES))
            await asyncio.sleep(0)  # the task runs, and waits
            if place is None:
                return instructions(lambda: window.leave(1, NAMES))
            with suppress(Interrupted):
                Tracer(place).run(lambda: window.leave(1, NAMES))
            window.leave(1, NAMES)
            done, _ = await asyncio.wait({following}, timeout=20)
            assert done, f"{place}: the task waits for ever"
            window.leave(2, NAMES)
            assert (window._inside, window.attempts) == (set(), {})
            return []

        return asyncio.run(main())

    for place in dict.fromkeys(left(None)):
        left(place)


async def test_a_task_leaves_once_however_often_it_says_so() -> None:
    window = Window(1)
    assert await window.enter(1, NAMES)
    for _ in range(2):
        window.leave(1, NAMES)
    assert not window._inside
    assert await window.enter(2, NAMES, 0)
    window.leave(1, NAMES)
    assert (window._inside, window.attempts) == ({2}, {NAMES: {2}})

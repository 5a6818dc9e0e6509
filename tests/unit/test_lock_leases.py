"""Which lease the end of a block or a call of a `Lock` means, where several could be meant."""

from __future__ import annotations

import asyncio
import inspect
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from redlock._locking import held_leases, lock_leases
from redlock._locking.lock_leases import Caller


class Owner:
    """Another thread or task."""


OTHER = Owner()
HERE, THERE = Caller.of_acquire(), Caller(weakref.ref(OTHER), None)
FRAME = inspect.currentframe()
assert FRAME is not None
GENERATOR = Caller(HERE.owner, (id(FRAME), FRAME.f_code))


def lease(caller: Caller, **changes: Any) -> Any:  # noqa: ANN401 - a lease, as far as this module sees it
    """The lease of a block that is held."""
    state = {"_caller": caller, "_is_block": True, "_is_released": False, "is_held": True, "is_lost": False}
    return SimpleNamespace(**state | {"_is_releasing": False, "_releaser": None} | changes)


def interrupted(caller: Caller, **changes: Any) -> Any:  # noqa: ANN401 - as above
    """A lease of `acquire` whose release was cancelled."""
    return lease(caller, is_held=False, _is_releasing=True, **{"_is_block": False} | changes)


def is_held(lease: Any) -> bool:  # noqa: ANN401 - as above
    return bool(lease.is_held)


def test_a_block_that_no_code_here_entered_ends_an_own_block() -> None:
    """A block of a generator that plain code ends."""
    own, other = lease(GENERATOR), lease(THERE)
    assert lock_leases.of_block([own, other], HERE) is own
    assert lock_leases.of_block([own, other], THERE) is other


@pytest.mark.parametrize("end", [{"is_held": False}, {"is_lost": True}], ids=["ended", "lost"])
def test_code_without_a_block_ends_what_is_over_first(end: dict[str, bool]) -> None:
    over, valid = lease(THERE, **end), lease(THERE)
    assert lock_leases.of_block([over, valid], HERE) is over
    assert lock_leases.of_block([lease(THERE), valid], HERE) is valid, "the last, if none is over"


def test_a_generator_ends_its_own_block_in_any_order() -> None:
    own, plain = lease(GENERATOR), lease(HERE)
    assert lock_leases.of_block([own, plain], GENERATOR) is own
    assert lock_leases.of_block([plain, own], HERE) is plain


@pytest.mark.parametrize("others", [0, 1], ids=["alone", "beside another"])
def test_a_call_means_no_lease_that_was_released(others: int) -> None:
    """The lease of a block stays until the end of the block."""
    leases = [lease(HERE, is_held=False) for _ in range(others)] + [lease(HERE, _is_released=True)]
    assert lock_leases.of_call(leases, is_held) is None


def test_a_release_means_a_lease_of_acquire_first() -> None:
    acquired, block = lease(HERE, _is_block=False), lease(HERE)
    assert lock_leases.of_call([acquired, block], is_held) is block
    assert lock_leases.of_call([acquired, block], is_held, acquired_first=True) is acquired
    assert lock_leases.of_call([lease(THERE), block], is_held, acquired_first=True) is block


def can_release(lease: Any) -> bool:  # noqa: ANN401 - as above
    return bool(lease.is_held or lease._is_releasing)


@pytest.mark.parametrize(
    "own", [interrupted(HERE), interrupted(THERE, _releaser=HERE.owner)], ids=["owner", "releaser"]
)
def test_a_repeated_release_means_the_own_interrupted_lease(own: Any) -> None:  # noqa: ANN401 - as above
    other, held = interrupted(THERE), lease(THERE)
    assert lock_leases.of_call([own, held], can_release, acquired_first=True) is own
    assert lock_leases.of_call([other, held], can_release, acquired_first=True) is held
    assert lock_leases.of_call([other, interrupted(THERE)], can_release, acquired_first=True) is not None


def test_another_call_means_no_interrupted_lease() -> None:
    own, held = interrupted(HERE), lease(THERE)
    assert lock_leases.of_call([own], is_held) is None
    assert lock_leases.of_call([own, held], is_held) is held, "as without the interrupted lease"
    assert lock_leases.of_call([interrupted(HERE, _is_block=True), held], is_held) is None, "the block is still open"


async def test_an_interrupted_lease_stays_while_a_task_can_repeat() -> None:
    ended, waiting = asyncio.create_task(asyncio.sleep(0)), asyncio.create_task(asyncio.Event().wait())
    await ended
    callers = [Caller(weakref.ref(task), None) for task in (asyncio.current_task(), waiting, ended)]
    own, other, over = map(interrupted, callers)
    of_another = interrupted(callers[2], _releaser=callers[1].owner)
    released = lease(callers[1], is_held=False, _is_block=False)
    leases, new = [own, other, over, of_another, released], lease(Caller.of_acquire())
    lock_leases.add(leases, new)
    assert leases == [other, of_another, new], "a new acquire replaces the own one"
    waiting.cancel()
    await asyncio.wait({waiting})


def test_a_call_inside_an_ended_block_means_no_other_block() -> None:
    ended, other = lease(HERE, is_held=False), lease(THERE)
    assert lock_leases.of_call([ended, other], is_held) is None
    assert lock_leases.of_call([other, lease(THERE)], is_held) is not None


def test_a_lease_that_is_over_leaves_unless_its_block_is_open() -> None:
    over = {"is_held": False}
    leases = [lease(HERE, **over), lease(HERE, _is_block=False, **over), lease(HERE, _is_block=False)]
    block, _, held = leases
    new = lease(HERE)
    lock_leases.add(leases, new)
    assert leases == [block, held, new]


def test_released_blocks_that_never_end_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_leases, "_MOST_RELEASED", 3)
    leases: list[Any] = []
    for _ in range(10):
        lock_leases.add(leases, lease(HERE, _is_released=True))
    assert len(leases) == 4
    assert held_leases.owner() is HERE.owner()

"""`held_leases`: a second acquisition in a context shares the lease or fails at once, and never deadlocks."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import pytest

from redlock import Lease, Redlock, RedlockError
from redlock._locking import held_leases
from tests.integration.threads import in_threads
from tests.integration.tracer import instructions
from tests.unit.helpers import grant


class FakeLease:
    """The part of a lease that the module uses."""

    def __init__(self, *names: str, client: str = "one", left: float = 1.0) -> None:
        self.names = names
        self.is_held = True
        self._claims = frozenset((client, name) for name in names)
        self._holding: held_leases.Holding | None = None
        self.left = left

    @property
    def is_lost(self) -> bool:
        return self.left <= 0


def claim(wanted: FakeLease, *, reentrant: bool = False) -> object:
    return held_leases.claim(cast("Lease", wanted), reentrant=reentrant)


def add(lease: FakeLease) -> FakeLease:
    held_leases.add(cast("Lease", lease))
    return lease


def remove(lease: FakeLease) -> None:
    held_leases.remove(cast("Lease", lease))


@pytest.fixture(autouse=True)
def context_of_its_own() -> Iterator[None]:
    token = held_leases._newest.set(None)
    yield
    held_leases._newest.reset(token)


def known(context: contextvars.Context) -> int:
    """The number of leases that a context knows, ended ones too."""
    holding, number = context[held_leases._newest], 0
    while holding is not None:
        holding, number = holding.below, number + 1
    return number


def test_a_context_without_leases_acquires_a_new_lease() -> None:
    wanted = FakeLease("a")
    assert claim(wanted) is wanted


@pytest.mark.parametrize(
    ("client", "names", "is_held"),
    [
        ("one", ("a", "b"), True),
        ("one", ("a",), False),
        ("one", ("c",), False),
        ("other", ("a", "b"), False),
    ],
)
def test_a_lease_counts_in_the_whole_process(client: str, names: tuple[str, ...], is_held: bool) -> None:
    lease = FakeLease("a", "b")
    in_threads(partial(add, lease))
    assert held_leases.is_held_here(cast("int", client), names) is is_held
    lease.left = 0.0
    assert not held_leases.is_held_here(cast("int", client), names), "the time is over"
    lease.left, lease.is_held = 1.0, False
    assert not held_leases.is_held_here(cast("int", client), names), "it was released"


def test_a_release_in_another_thread_disturbs_no_check(client: Redlock, monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[bool] = []

    def is_held(lease: Lease) -> bool:
        # The other thread releases the lease right after this check.
        checks.append(lease._grant is not None)
        lease._grant = None
        return checks[-1]

    monkeypatch.setattr(type(client.lease("a")), "is_held", property(is_held))
    lease, wanted = client.lease("a"), client.lease("a")
    held_leases.add(lease)
    lease._grant = grant(2**62)
    held_leases.is_held_here(id(client._context), ("a",))
    lease._grant = grant(2**62)
    assert held_leases.claim(wanted, reentrant=True) is lease, "its entry notices the release"
    lease._grant = None
    assert held_leases.claim(wanted, reentrant=True) is wanted
    assert checks == [True, True, False]


def test_what_is_held_is_an_error_at_once_that_says_how_to_do_it() -> None:
    outer = add(FakeLease("a"))
    with pytest.raises(RedlockError, match="'a' is held by this very context; it would wait for itself") as caught:
        claim(FakeLease("a"))
    assert "reentrant=True" in str(caught.value)
    assert outer.is_held


def test_a_reentrant_claim_returns_the_held_lease() -> None:
    outer = add(FakeLease("a", "b"))
    assert claim(FakeLease("a"), reentrant=True) is outer
    assert claim(FakeLease("a", "b"), reentrant=True) is outer


def test_a_set_that_is_only_partly_held_can_not_be_shared() -> None:
    _outer = add(FakeLease("a", "b"))
    with pytest.raises(RedlockError, match="'b' is held by this very context") as caught:
        claim(FakeLease("b", "c"), reentrant=True)
    assert "with the outer lock" in str(caught.value)


def test_other_resources_and_other_clients_are_no_matter() -> None:
    _outer = add(FakeLease("a"))
    for wanted in (FakeLease("b"), FakeLease("a", client="other")):
        assert claim(wanted) is wanted


@pytest.mark.parametrize("how", ["expired", "given back", "removed", "dropped"])
def test_a_lease_that_ended_blocks_no_new_lease(how: str) -> None:
    outer: FakeLease | None = add(FakeLease("a"))
    assert outer is not None
    if how == "expired":
        outer.left = 0.0
    elif how == "given back":
        outer.is_held = False
    elif how == "removed":
        remove(outer)
    else:
        outer = None
        gc.collect()
    wanted = FakeLease("a")
    assert claim(wanted) is wanted


def test_removing_one_keeps_the_others() -> None:
    first, _second = add(FakeLease("a")), add(FakeLease("b"))
    remove(first)
    with pytest.raises(RedlockError, match="'b' is held"):
        claim(FakeLease("b"))


def test_leases_dropped_without_a_release_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_leases, "_last", {})
    monkeypatch.setattr(held_leases, "_cleanup_size", 10)
    kept = add(FakeLease("kept"))
    for number in range(30):
        add(FakeLease(f"account:{number}"))
    assert len(held_leases._last) <= 12
    with pytest.raises(RedlockError):
        claim(FakeLease("kept"))
    del kept


def test_another_context_holds_nothing_of_this_one() -> None:
    _outer = add(FakeLease("a"))
    wanted = FakeLease("a")
    assert contextvars.Context().run(claim, wanted) is wanted


def test_sibling_contexts_of_a_thread_hold_nothing_of_each_other() -> None:
    """Tasks of Trio run in one thread, each in its own context."""
    _before = add(FakeLease("start-up"))
    first, second, wanted = contextvars.copy_context(), contextvars.copy_context(), FakeLease("a")
    outer = first.run(add, FakeLease("a"))
    assert second.run(claim, wanted, reentrant=True) is wanted
    assert claim(wanted, reentrant=True) is wanted
    assert first.copy().run(claim, wanted, reentrant=True) is outer, "a later copy holds the lease"
    first.run(remove, outer)
    assert known(first) == 1


def test_the_cost_of_a_lease_does_not_grow_with_their_number() -> None:
    def acquire(leases: list[FakeLease]) -> None:
        for lease in leases:
            claim(lease)
            add(lease)

    def release(leases: list[FakeLease]) -> None:
        # In the opposite order, as an `ExitStack` does.
        for lease in reversed(leases):
            remove(lease)

    few, many = [[FakeLease(f"{count}:{number}") for number in range(count)] for count in (10, 510)]
    for work in (acquire, release):
        less, more = len(instructions(partial(work, few))), len(instructions(partial(work, many)))
        assert more < 60 * less
    assert not any(lease._claims & held_leases._last.keys() for lease in many)


@pytest.mark.parametrize("end", [list[FakeLease].clear, lambda ended: remove(ended.pop())])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_no_context_keeps_what_ended(end: Callable[[list[FakeLease]], None], place: int) -> None:
    context, held = contextvars.copy_context(), list[FakeLease]()
    for number in range(100):
        held.append(context.run(add, FakeLease(f"lease {number}")))
        if number >= 3:
            end([held.pop(place)])
    assert known(context) < 7
    assert all(context.run(claim, FakeLease(*lease.names), reentrant=True) is lease for lease in held)


def test_a_copy_of_the_context_in_another_thread_holds_nothing() -> None:
    _outer = add(FakeLease("a"))
    wanted, got = FakeLease("a"), list[object]()
    context = contextvars.copy_context()
    assert context.run(claim, FakeLease("a"), reentrant=True) is _outer, "in this thread it does"
    in_threads(lambda: got.append(context.run(claim, wanted, reentrant=True)))
    assert got == [wanted]


def test_an_asyncio_task_holds_nothing_of_the_task_that_made_it() -> None:
    wanted = FakeLease("a")

    async def child() -> object:
        return claim(wanted, reentrant=True)

    async def parent() -> list[object]:
        outer = add(FakeLease("a"))
        own = claim(FakeLease("a"), reentrant=True)
        return [own is outer, await asyncio.create_task(child())]

    assert asyncio.run(parent()) == [True, wanted]


def test_a_limited_wait_for_oneself_is_no_error() -> None:
    _outer, wanted = add(FakeLease("a")), FakeLease("a")
    found: object = held_leases.claim(cast("Lease", wanted), reentrant=False, forever=False)
    assert found is wanted


def test_leases_released_elsewhere_are_forgotten() -> None:
    held = [add(FakeLease(f"lease {number}")) for number in range(100)]
    in_threads(*(partial(remove, lease) for lease in held))
    assert not any(lease._claims & held_leases._last.keys() for lease in held)


def test_threads_that_have_ended_are_forgotten() -> None:
    context = contextvars.copy_context()
    for _ in range(10):
        in_threads(partial(context.run, add, FakeLease("a")))
    assert known(context) < 5


def test_many_leases_that_are_held_stay_known() -> None:
    held = [add(FakeLease(f"lease {number}")) for number in range(1_000)]
    for lease in held:
        with pytest.raises(RedlockError, match="held by this very context"):
            claim(FakeLease(*lease.names))


def test_an_older_lease_that_ends_hides_no_newer_lease() -> None:
    older, newer = add(FakeLease("a")), add(FakeLease("a"))
    older.is_held = False
    remove(older)
    with pytest.raises(RedlockError, match="wait for itself"):
        claim(FakeLease("a"))
    assert newer.is_held


def test_another_thread_in_the_same_context_changes_nothing() -> None:
    """As several tasks can, too, from Python 3.11 on."""
    context = contextvars.copy_context()
    outer, claimed = context.run(add, FakeLease("a")), []

    def other_thread() -> None:
        kept = add(FakeLease("b"))
        claimed.extend([claim(wanted, reentrant=True) is wanted for wanted in (FakeLease("a"),)])
        assert claim(FakeLease("b"), reentrant=True) is kept

    in_threads(partial(context.run, other_thread))
    assert claimed == [True]
    assert context.run(claim, FakeLease("a"), reentrant=True) is outer

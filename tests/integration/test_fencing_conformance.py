"""The conformance kit refuses fences that lose bits of the token or names of the lease, and shows why `open` fails."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from redlock.errors import Stale
from redlock.fencing import conformance
from redlock.fencing.conformance import INTERLEAVINGS, Lease, check, check_all, random_interleavings
from tests.integration.fence_recipes import recipe

PATIENCE = 0.02
LONG_PATIENCE = 60.0
"""For an interleaving in which no step waits: on a busy machine, a slow step must not count as a step that waits."""
Memory: Any = recipe("test_memory_fence.py").MemoryAdapter


class Narrowed(Memory):  # type: ignore[misc]  # a class of the page
    """The manual's adapter, which sees a part of each lease only."""

    def __init__(self, change: Callable[[Lease], Lease], *, compares_owners: bool = True) -> None:
        self.change, self.compares_owners = change, compares_owners

    def fenced(self, session: object, lease: Lease) -> AbstractContextManager[object]:
        seen = self.change(lease)
        block: AbstractContextManager[object] = super().fenced(
            session, seen if self.compares_owners else seen._replace(owner="")
        )
        return block


def single(token: int) -> int:
    """The token in a 32-bit float, such as REAL in SQL."""
    (kept,) = struct.unpack("f", struct.pack("f", token))
    return int(kept)


def test_the_adapter_of_the_manual_passes() -> None:
    check_all(Memory(), patience=PATIENCE, examples=5)
    check_all(Narrowed(lambda lease: lease), patience=PATIENCE, examples=0)


@pytest.mark.parametrize("compares_owners", [True, False])
@pytest.mark.parametrize(
    "kept",
    [
        single,
        lambda token: token & (2**31 - 1),
        lambda token: token & (2**32 - 1),
        lambda token: token & (2**40 - 1),
        lambda token: min(token, 2**31 - 1),
        lambda token: token // 1_000_000,
    ],
    ids=["32-bit float", "31 bits", "32 bits", "40 bits", "clipped INT", "seconds"],
)
def test_a_fence_that_loses_bits_of_the_token_fails(kept: Callable[[int], int], *, compares_owners: bool) -> None:
    adapter = Narrowed(lambda lease: lease._replace(fence=kept(lease.fence)), compares_owners=compares_owners)
    with pytest.raises(AssertionError, match=r"had to pass and did not|passed with a stale token"):
        check_all(adapter, patience=PATIENCE, examples=0)


@pytest.mark.parametrize(("place", "found"), [(slice(1), "I11 I12 I13"), (slice(-1, None), "I11 I12")])
def test_a_fence_of_one_name_of_two_fails(place: slice, found: str) -> None:
    adapter = Narrowed(lambda lease: lease._replace(names=lease.names[place]))
    for name in found.split():
        with pytest.raises(AssertionError, match=r"passed with a stale token|lost"):
            check(adapter, INTERLEAVINGS[name], patience=LONG_PATIENCE)


def test_random_interleavings_find_a_fence_of_the_first_name() -> None:
    adapter = Narrowed(lambda lease: lease._replace(names=lease.names[:1]))
    seen = INTERLEAVINGS.copy()
    INTERLEAVINGS.clear()
    try:
        with pytest.raises(AssertionError, match=r"lost|larger token"):
            check_all(adapter, patience=PATIENCE, examples=100)
    finally:
        INTERLEAVINGS.update(seen)


@pytest.mark.parametrize("error", [AssertionError("an update of 'account' was lost"), OSError("no database")])
def test_an_error_that_came_once_is_shown(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the random order does not come again, as on a busy machine."""
    numbers = itertools.count()

    def fails_once(*_: object, **__: object) -> None:
        if next(numbers) == 3:
            raise error

    monkeypatch.setattr(conformance, "check", fails_once)
    with pytest.raises(type(error), match=str(error)):
        conformance._check_random(Narrowed(lambda lease: lease), PATIENCE, 20, 0)


def test_the_tokens_are_like_real_ones() -> None:
    leases = [lease for interleaving in INTERLEAVINGS.values() for lease in interleaving.leases.values()]
    assert all(1_790_000_000_000_000 < lease.fence < 1_800_000_000_000_000 for lease in leases)
    assert {len(lease.names) for lease in leases} == {1, 2}
    assert random_interleavings() is not None


def test_the_error_of_open_is_shown_at_once() -> None:
    class Down(Memory):  # type: ignore[misc]
        def open(self) -> None:
            raise ConnectionRefusedError("no database at 127.0.0.1:5432")

    with pytest.raises(AssertionError, match=r"`open` of the adapter failed .*no database at 127.0.0.1:5432") as caught:
        check(Down(), INTERLEAVINGS["I5"], patience=PATIENCE)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


@pytest.mark.parametrize("error", [ValueError("no such table"), SystemExit("no such table")])
def test_the_error_of_a_step_is_shown(error: BaseException) -> None:
    class Fails(Memory):  # type: ignore[misc]
        def read(self, session: object, resource: str) -> int:
            raise error

    with pytest.raises(AssertionError, match=r"neither Stale nor retryable.*no such table"):
        check(Fails(), INTERLEAVINGS["I5"], patience=PATIENCE)


def test_a_stale_token_of_a_lease_of_two_names_is_refused() -> None:
    adapter = Memory()
    adapter.reset()
    with adapter.fenced(None, Lease(9, "new")):
        pass
    with pytest.raises(Stale), adapter.fenced(None, Lease(7, "old", ("acc", "account"))):
        pytest.fail("the body must not run")

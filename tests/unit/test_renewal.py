"""The renewing thread's list of leases."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from redlock.clock import now_ms
from redlock.driver import Driver
from redlock.renewal import Renewal
from redlock.wire import Codec

if TYPE_CHECKING:
    import pytest


CODEC = Codec(5, "", 10_000)


class Given(SimpleNamespace):
    """As much of a lease as the list looks at; weak references to it work."""


def test_it_wakes_up_for_what_is_still_held_and_not_for_each_lease_that_was_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    renewal, waits = Renewal(Driver((), CODEC)), []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        renewal.close()

    monkeypatch.setattr(renewal, "_thread", threading.current_thread())
    monkeypatch.setattr(renewal._changed, "wait", wait)
    over: list[Any] = [Given(held=False) for _ in range(10)]
    held: Any = Given(held=True)
    for number, lease in enumerate(over):
        renewal.add(lease, now_ms() + 60_000 + number)
    renewal.add(held, now_ms() + 120_000)

    assert renewal._next() == []
    (seconds,) = waits
    assert 100 < seconds <= 120, "it waited for one that was given back"

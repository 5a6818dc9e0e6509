"""`redlock._locking.renewal`: one turn of the renewal thread, with connections that send nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import pytest

from redlock._clock import now_ms
from redlock._locking import renewal
from redlock._locking.renewal import Renewal


class Given:
    """A lease that is renewed without a round."""

    def __init__(self, connections: Any) -> None:  # noqa: ANN401 - as the thread gets them
        self._connections, self.ttl_ms, self._is_renewed, self.is_held = connections, 3_000, True, True
        self.resource = "x"
        self.renewals: list[object] = []
        self.error: Exception | None = None

    def _renewal(self, connections: Any) -> Generator[Any, Any, int]:  # noqa: ANN401 - as above
        self.renewals.append(connections)
        if self.error is not None:
            raise self.error
        return now_ms() + 60_000
        yield

    def _report_loss(self) -> None:
        """Nothing is lost."""


class Connections:
    """A set of connections that counts its exchanges."""

    def __init__(self) -> None:
        self.exchanges: list[int] = []
        self.error: BaseException | None = None

    def run_all(self, generators: Sequence[Any]) -> list[Any]:
        self.exchanges.append(len(generators))
        if self.error is not None:
            raise self.error
        results = []
        for steps in generators:
            with pytest.raises(StopIteration) as ended:
                next(steps)
            results.append(ended.value.value)
        return results


class Pool:
    @contextlib.contextmanager
    def connections(self, wanted: Connections) -> Iterator[Connections]:
        yield wanted


@pytest.fixture
def thread(monkeypatch: pytest.MonkeyPatch) -> Renewal:
    """A renewal; its thread does not run."""
    made = Renewal(Pool())  # type: ignore[arg-type]  # as a pool
    monkeypatch.setattr(made._background, "wake", lambda _due_ms: None)
    return made


def test_a_thread_sleeps_until_a_held_lease_is_due(thread: Renewal) -> None:
    """And does not wake up for each lease that was given back."""
    leases: list[Any] = [Given(Connections()) for _ in range(11)]
    *over, held = leases
    for number, lease in enumerate(over):
        thread.add(lease, now_ms() + 60_000 + number)
        lease.is_held = False
    thread.add(held, now_ms() + 120_000)
    seconds = thread._work()
    assert seconds is not None
    assert 100 < seconds <= 120, "it waits for one that was given back"
    held.is_held = False
    assert thread._work() is None, "there is nothing to wait for"


def test_a_turn_renews_all_leases_with_an_exchange_per_set(thread: Renewal) -> None:
    sets = Connections(), Connections()
    leases: list[Any] = [Given(sets[number % 2]) for number in range(150)]
    for lease in leases:
        thread.add(lease, now_ms())
    seconds = thread._work()
    assert all(lease.renewals == [lease._connections] for lease in leases), "each once, on its own connections"
    assert [one.exchanges for one in sets] == [[32, 32, 11]] * 2, "64 leases at a time"
    assert seconds is not None
    assert 50 < seconds <= 60


@pytest.mark.parametrize("error", [OSError("too many open files"), SystemExit(1)], ids=["error", "exit"])
def test_a_turn_that_failed_forgets_no_lease(
    thread: Renewal, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, sets = [now_ms()], (Connections(), Connections())
    monkeypatch.setattr(renewal, "now_ms", lambda: clock[0])
    leases: list[Any] = [Given(one) for one in sets]
    for lease in leases:
        thread.add(lease, clock[0])
    sets[0].error = error
    with contextlib.suppress(SystemExit):
        thread._work()
    assert not leases[0].renewals
    sets[0].error = None
    for _ in range(2):
        # A lease that was under way is put back for a moment later.
        thread._work()
        clock[0] += 100
    assert all(lease.renewals for lease in leases)


def test_a_thousand_new_leases_wake_the_thread(thread: Renewal, monkeypatch: pytest.MonkeyPatch) -> None:
    wakes: list[int] = []
    monkeypatch.setattr(thread._background, "wake", wakes.append)
    lease: Any = Given(Connections())
    for _ in range(1_000):
        thread.add(lease, 5)
    assert wakes == [5] * 999 + [0], "most of them may have ended and take memory"


def test_a_renewal_that_is_late_or_fails_is_logged(thread: Renewal, caplog: pytest.LogCaptureFixture) -> None:
    leases: list[Any] = [Given(Connections()), Given(Connections())]
    (late, failed), connections = leases, Connections()
    thread.add(late, now_ms() - 1_500)
    thread._work()
    assert caplog.messages[-1].startswith("renewal-late resource=x delay_ms=")
    remedy = "raise ttl above the time for which this process runs no other thread, or let its work pause more often"
    assert caplog.messages[-1].endswith(f" ttl_ms=3000 remedy='{remedy}'")
    for error in (OSError("too many open files"), ValueError("as a log handler")):
        connections.error = error if isinstance(error, OSError) else None
        failed._connections, failed.error = connections, error
        thread.add(failed, now_ms())
        due = thread._work()
        assert caplog.messages[-1] == "renewal-failed resource=x"
        assert due is not None
        assert due <= 0.05, "it is due again soon"
        failed.is_held = False
        thread._work()
        failed.is_held = True


def test_a_client_that_is_closed_renews_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    made, stops = Renewal(Pool()), list[str]()  # type: ignore[arg-type]  # as a pool
    callbacks = made.callbacks
    made.reset_after_fork()
    assert made.callbacks is not callbacks, "its threads are those of the parent"
    monkeypatch.setattr(made._background, "stop", lambda: stops.append(made._background._name))
    made.close()
    assert stops == ["redlock-renewal"]

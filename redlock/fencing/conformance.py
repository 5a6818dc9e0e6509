"""A conformance kit: does an adapter refuse stale tokens and lose no update, however its holders interleave?

Write an `Adapter` for a database and a fence, then call `check_all`, or subclass `FencingConformance` in a test file. A
broken adapter fails with a message that tells which update was lost and why. Run the kit at every isolation level that
the application may use: some faults show at one level only.

    class TestMyFence(FencingConformance):
        @pytest.fixture(params=["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
        def adapter(self, request): return MyAdapter(isolation_level=request.param)
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

from redlock.errors import RedlockError, Stale
from redlock.fencing._interleavings import (
    INTERLEAVINGS,
    Interleaving,
    Lease,
    Step,
    Write,
    random_interleavings,
    resource_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

__all__ = [
    "INTERLEAVINGS",
    "Adapter",
    "FencingConformance",
    "Interleaving",
    "Lease",
    "Step",
    "Write",
    "check",
    "check_all",
    "random_interleavings",
]

_END_SECONDS, _STEP_SECONDS = 30.0, 10.0


class Adapter(Protocol):
    """A resource behind a fence, for the kit: an integer for each name, and a journal of writes."""

    def reset(self) -> None:
        """Set every value to 0, empty the journal and forget every token."""

    def open(self) -> Any:  # noqa: ANN401 - of whichever driver
        """A new connection or session, for a holder."""

    def close(self, session: Any) -> None:  # noqa: ANN401 - as above
        """Close a connection or session in any state."""

    def fenced(self, session: Any, lease: Lease) -> AbstractContextManager[object]:  # noqa: ANN401 - as above
        """The fenced block under test, which fences each name in `lease.names`."""

    def look(self, session: Any, resource: str) -> None:  # noqa: ANN401 - as above
        """Read the value before the fenced block, as careless code does."""

    def read(self, session: Any, resource: str) -> int:  # noqa: ANN401 - as above
        """Read the value inside the fenced block.

        Where a query can compute the value from the journal, do so, and let `write` insert only. A database finds the
        conflict of two updates of one row by itself at some levels, also where the fence is broken.
        """

    def write(self, session: Any, write: Write, value: int) -> None:  # noqa: ANN401 - as above
        """Write the value, and insert `write` into the journal."""

    def retryable(self, error: Exception) -> bool:
        """Whether the body may be repeated after this error, as after a serialization failure."""

    def committed(self) -> list[Write]:
        """The journal, read on a new connection."""

    def value(self, resource: str) -> int:
        """The value, read on a new connection."""


class _Holder:
    """A holder: a thread that runs its steps on request."""

    def __init__(self, adapter: Adapter, lease: Lease) -> None:
        self._adapter = adapter
        self._lease = lease
        self._resource = resource_of(lease)
        self._orders: queue.Queue[str] = queue.Queue()
        self._done: queue.Queue[str] = queue.Queue()
        self.ended = threading.Event()
        self.outcome = "did not end"
        self.error: BaseException | None = None
        self.is_open = False
        self.value_read: int | None = None
        self.written: Write | None = None
        self._behind = 0
        self._thread = threading.Thread(target=self._run, name=f"holder-{lease.fence}", daemon=True)
        self._thread.start()

    def tell(self, action: str, seconds: float) -> None:
        """Request a step, and wait for this long until the holder has done this step and all before."""
        self._orders.put(action)
        self._behind += 1
        while self._behind and not self.ended.is_set():
            try:
                self._done.get(timeout=seconds)
            except queue.Empty:
                return
            self._behind -= 1

    def end(self) -> None:
        """End the holder."""
        self._orders.put("")
        self._thread.join(_END_SECONDS)

    def _await(self, step: str) -> None:
        while True:
            order = self._orders.get()
            if order == step:
                return
            if order == "":
                raise _NotWanted
            if order == "look":
                self._adapter.look(self._session, self._resource)
                self._done.put(order)

    def _run(self) -> None:
        try:
            self._session = self._adapter.open()
            self.is_open = True
            self._work(self._session)
            self.outcome = "committed"
        except _NotWanted:
            self.outcome = "not wanted"
        except Stale:
            self.outcome = "stale"
        except RedlockError as error:
            self.outcome, self.error = "refused", error
        except BaseException as error:  # noqa: BLE001 - each driver has its own errors; `check` judges this one
            self.outcome, self.error = "failed", error
            if isinstance(error, Exception) and self._adapter.retryable(error):
                self.outcome = "retryable"
        finally:
            # A session that failed may fail to close too. `check` judges the first error.
            with contextlib.suppress(Exception):
                if self.is_open:
                    self._adapter.close(self._session)
            self.ended.set()
            self._done.put("ended")

    def _work(self, session: Any) -> None:  # noqa: ANN401 - of whichever driver
        self._await("enter")
        with self._adapter.fenced(session, self._lease):
            self._done.put("enter")
            self._await("read")
            value = self.value_read = self._adapter.read(session, self._resource)
            self._done.put("read")
            self._await("write")
            self.written = Write(self._resource, self._lease.fence, value)
            self._adapter.write(session, self.written, value + 1)
            self._done.put("write")
            self._await("leave")


class _NotWanted(BaseException):
    """The interleaving is over and this holder has steps left."""


def check(adapter: Adapter, interleaving: Interleaving, *, patience: float = 0.3) -> None:
    """Run an interleaving and check that no update was lost and that tokens were committed in order.

    Args:
        adapter: The fence under test.
        interleaving: The steps.
        patience: Seconds after which a step that may wait counts as waiting for another holder.

    Raises:
        AssertionError: A promise was broken; the message names the promise and the values that each holder saw.
    """
    adapter.reset()
    holders = {name: _Holder(adapter, lease) for name, lease in interleaving.leases.items()}
    try:
        for name, action, may_wait in interleaving.steps:
            holders[name].tell(action, patience if may_wait else _STEP_SECONDS)
    finally:
        for holder in holders.values():
            holder.end()
    for name, holder in holders.items():
        if holder.error is not None and not holder.is_open:
            raise AssertionError(f"`open` of the adapter failed for {name}: {holder.error!r}") from holder.error
    problems = list(_problems(adapter, interleaving, holders))
    if problems:
        told = "; ".join(
            f"{name} (token {interleaving.leases[name].fence}) read {holder.value_read}, {holder.outcome}"
            + (f": {holder.error}" if holder.error else "")
            for name, holder in holders.items()
        )
        raise AssertionError(f"{interleaving.why}: {'; '.join(problems)} [{told}]")


def _problems(adapter: Adapter, interleaving: Interleaving, holders: Mapping[str, _Holder]) -> Iterator[str]:
    journal = adapter.committed()
    for resource in sorted({resource_of(lease) for lease in interleaving.leases.values()}):
        writes = sorted((write for write in journal if write.resource == resource), key=lambda write: write.read)
        value = adapter.value(resource)
        if value != len(writes):
            yield f"an update of {resource!r} was lost: {len(writes)} holders committed and the value is {value}"
        for before, after in itertools.pairwise(writes):
            if after.read == before.read:
                yield f"tokens {before.token} and {after.token} both computed from {before.read}: one update is lost"
            elif after.token < before.token:
                yield f"token {after.token} was committed after the larger token {before.token}"
    yield from _wrong_writes(journal, holders)
    for name, holder in holders.items():
        yield from _wrong_end(name, holder, interleaving)


def _wrong_writes(journal: list[Write], holders: Mapping[str, _Holder]) -> Iterator[str]:
    committed = [holder.written for holder in holders.values() if holder.written and holder.outcome == "committed"]
    for write in (Counter(committed) - Counter(journal)).elements():
        yield f"token {write.token} was committed after it had read {write.read}, and its write is lost"
    others = Counter(journal) - Counter(committed)
    for name, holder in holders.items():
        if holder.outcome in {"stale", "refused"} and holder.written and others[holder.written]:
            yield f"{name} was refused, and its write is there"


def _wrong_end(name: str, holder: _Holder, interleaving: Interleaving) -> Iterator[str]:
    outcome = holder.outcome
    if outcome in {"failed", "did not end"}:
        yield f"{name} ended with an error that is neither Stale nor retryable"
    elif name in interleaving.stale and outcome == "committed":
        yield f"{name} passed with a stale token"
    elif name in interleaving.commits and outcome not in {"committed", "retryable"}:
        yield f"{name} had to pass and did not"


def check_all(adapter: Adapter, *, patience: float = 0.1, examples: int = 20, seed: int = 0) -> None:
    """Run every interleaving of the kit, then random interleavings of three holders.

    Args:
        adapter: The fence under test.
        patience: Seconds after which a step that may wait counts as waiting for another holder; a fifth of it in random
            interleavings. A machine that needs longer runs the steps in another order, which is no fault.
        examples: The number of random interleavings. Hypothesis makes them, and shrinks a failing interleaving; it need
            not be installed for 0.
        seed: The random interleavings are the same for the same seed.

    Raises:
        AssertionError: A promise was broken; the message names the promise and the values that each holder saw.
    """
    for interleaving in INTERLEAVINGS.values():
        check(adapter, interleaving, patience=patience)
    if examples:
        _check_random(adapter, patience, examples, seed)


def _check_random(adapter: Adapter, patience: float, examples: int, seed: int) -> None:
    import hypothesis  # noqa: PLC0415 - only for users of Hypothesis

    seen, checks = list[Exception](), list(hypothesis.HealthCheck)

    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=examples, deadline=None, database=None, suppress_health_check=checks)
    @hypothesis.given(random_interleavings())
    def run(interleaving: Interleaving) -> None:
        try:
            check(adapter, interleaving, patience=patience / 5)
        except Exception as error:
            seen.append(error)
            raise

    try:
        run()
    except hypothesis.errors.Flaky as flaky:
        # A busy machine does not repeat the order of the steps. A promise that was broken once is broken.
        raise (seen or [flaky])[-1] from None


class FencingConformance:
    """Base class for a test. A subclass has a fixture `adapter`, and pytest runs every interleaving.

    Attributes:
        examples: The number of random interleavings, which need Hypothesis.
    """

    examples = 20

    def test_the_interleavings_lose_no_update(self, adapter: Adapter) -> None:
        """Every interleaving of the kit, and random interleavings, on one adapter."""
        check_all(adapter, examples=self.examples)

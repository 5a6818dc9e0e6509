"""A conformance kit: does an adapter refuse stale tokens and lose no update, however its holders interleave?

Write an `Adapter` for a database and a fence, then run `check` for every interleaving, or subclass `FencingConformance`
in a test file. A broken adapter fails with a message that tells which update was lost and why. Run the kit at every
isolation level that the application may use: some faults show at one level only.

    class TestMyFence(FencingConformance):
        @pytest.fixture
        def adapter(self): return MyAdapter(...)
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from redlock.errors import RedlockError, Stale

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

__all__ = ["INTERLEAVINGS", "Adapter", "FencingConformance", "Interleaving", "Lease", "check", "random_interleavings"]

_END_SECONDS = 30.0

_STEP_SECONDS = 10.0


class Step(NamedTuple):
    """A step of a holder.

    Attributes:
        holder: Its name.
        action: `look`, `enter`, `read`, `write` or `leave`.
        may_wait: True if a right fence lets the holder wait here for another holder.
    """

    holder: str
    action: str
    may_wait: bool = False


class Lease(NamedTuple):
    """A lease as a fence sees it, without any lock behind it: the kit gives tokens in the order that it wants."""

    fence: int
    owner: str = "owner"
    names: tuple[str, ...] = ("account",)
    ttl_ms: int = 5_000

    def remaining(self) -> float:
        """Seconds until the deadline: here the lease never expires."""
        return 60.0


class Write(NamedTuple):
    """A committed row of the journal that `Adapter.write` inserts."""

    resource: str
    token: int
    read: int


class Adapter(Protocol):
    """A resource behind a fence, for the kit: one integer per name and a journal of writes."""

    def reset(self) -> None:
        """Set every value to 0, empty the journal and forget every token."""

    def open(self) -> Any:  # noqa: ANN401 - of whichever driver
        """A new connection or session, for one holder."""

    def close(self, session: Any) -> None:  # noqa: ANN401 - as above
        """Close it, whatever state it is in."""

    def fenced(self, session: Any, lease: Lease) -> AbstractContextManager[object]:  # noqa: ANN401 - as above
        """The fenced block under test."""

    def look(self, session: Any, resource: str) -> None:  # noqa: ANN401 - as above
        """Read the value before the fenced block, as careless code does."""

    def read(self, session: Any, resource: str) -> int:  # noqa: ANN401 - as above
        """Read the value inside the fenced block."""

    def write(self, session: Any, write: Write, value: int) -> None:  # noqa: ANN401 - as above
        """Write the value, and insert `write` into the journal."""

    def retryable(self, error: Exception) -> bool:
        """Whether the body may be repeated after this error, as after a serialization failure."""

    def committed(self) -> list[Write]:
        """The journal, as a new connection sees it."""

    def value(self, resource: str) -> int:
        """The value, as a new connection sees it."""


class Interleaving(NamedTuple):
    """Steps of several holders in a fixed order.

    Attributes:
        why: What is tried, as a short sentence.
        leases: The lease of each holder.
        steps: What happens in which order.
        commits: The holders that must commit, unless they end with a retryable error or refuse an open transaction.
        stale: The holders that must be refused.
    """

    why: str
    leases: Mapping[str, Lease]
    steps: Sequence[Step]
    commits: frozenset[str] = frozenset()
    stale: frozenset[str] = frozenset()


def _steps(text: str) -> list[Step]:
    """`"a:enter,read b:enter?"` as a list of steps; a question mark means that the step may wait."""
    found = [(word.split(":")[0], step) for word in text.split() for step in word.split(":")[1].split(",")]
    return [Step(holder, step.rstrip("?"), step.endswith("?")) for holder, step in found]


_ALL = "enter,read,write,leave"
_A, _B = Lease(7, "first"), Lease(8, "second")

INTERLEAVINGS: dict[str, Interleaving] = {
    "I1": Interleaving(
        "a holder is frozen between read and write, and a larger token comes",
        {"seed": Lease(5, "seed"), "a": _A, "b": _B},
        _steps(f"seed:{_ALL} a:enter,read b:enter?,read? a:write,leave b:write,leave"),
        commits=frozenset("ab"),
    ),
    "I2": Interleaving(
        "a smaller token comes while a larger one is open",
        {"a": _A, "b": _B},
        _steps("b:enter,read a:enter?,read? b:write,leave a:write,leave"),
        commits=frozenset("b"),
        stale=frozenset("a"),
    ),
    "I3": Interleaving(
        "two sections of one lease overlap",
        {"seed": _A, "a": _A, "b": _A},
        _steps(f"seed:{_ALL} a:enter,read b:enter?,read? a:write,leave b:write,leave"),
        commits=frozenset("ab"),
    ),
    "I4": Interleaving(
        "two holders use a resource for the first time",
        {"a": _A, "b": _B},
        _steps("a:enter,read b:enter?,read? a:write,leave b:write,leave"),
        commits=frozenset("ab"),
    ),
    "I5": Interleaving(
        "a smaller token comes twice after a larger one was committed",
        {"b": _B, "a": _A, "c": Lease(7, "first")},
        _steps(f"b:{_ALL} a:{_ALL} c:{_ALL}"),
        commits=frozenset("b"),
        stale=frozenset("ac"),
    ),
    "I6": Interleaving(
        "an equal token comes again, once from the same lease and once from another",
        {"a": _A, "b": _A, "c": Lease(7, "other")},
        _steps(f"a:{_ALL} b:{_ALL} c:{_ALL}"),
        commits=frozenset("ab"),
        stale=frozenset("c"),
    ),
    "I7": Interleaving(
        "a holder waits for the row and then reads",
        {"a": _A, "b": _B},
        _steps("a:enter b:enter? a:read,write,leave b:read,write,leave"),
        commits=frozenset("ab"),
    ),
    "I8": Interleaving(
        "two resource names differ in case and in a trailing blank only",
        {"a": Lease(8, "a", ("acc",)), "b": Lease(7, "b", ("ACC",)), "c": Lease(6, "c", ("acc ",))},
        _steps(f"a:{_ALL} b:{_ALL} c:{_ALL}"),
        commits=frozenset("abc"),
    ),
    "I9": Interleaving(
        "four holders use a resource for the first time at once",
        {name: Lease(10 + place, name) for place, name in enumerate("abcd")},
        _steps("a:enter? b:enter? c:enter? d:enter? " + " ".join(f"{name}:read?,write?,leave?" for name in "abcd")),
    ),
    "I10": Interleaving(
        "a holder looks at the data before its fence",
        {"a": _B, "b": _A},
        _steps(f"a:look b:{_ALL} a:{_ALL}"),
        commits=frozenset("b"),
    ),
}
"""The interleavings that a fence must survive; each was lost by some adapter that looked right."""


class _Holder:
    """One holder: a thread that runs its steps when it is told to."""

    def __init__(self, adapter: Adapter, lease: Lease) -> None:
        self._adapter = adapter
        self._lease = lease
        self._orders: queue.Queue[str] = queue.Queue()
        self._done: queue.Queue[str] = queue.Queue()
        self.ended = threading.Event()
        self.outcome = "did not end"
        self.error: Exception | None = None
        self.saw: int | None = None
        self._behind = 0
        self._thread = threading.Thread(target=self._run, name=f"holder-{lease.fence}", daemon=True)
        self._thread.start()

    def tell(self, action: str, seconds: float) -> None:
        """Give the order, and wait for this long until the holder has obeyed it and all before it."""
        self._orders.put(action)
        self._behind += 1
        while self._behind and not self.ended.is_set():
            try:
                self._done.get(timeout=seconds)
            except queue.Empty:
                return
            self._behind -= 1

    def end(self) -> None:
        """Let it come to its end."""
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
                self._adapter.look(self._session, self._lease.names[0])
                self._done.put(order)

    def _run(self) -> None:
        session = self._session = self._adapter.open()
        resource = self._lease.names[0]
        try:
            self._await("enter")
            with self._adapter.fenced(session, self._lease):
                self._done.put("enter")
                self._await("read")
                value = self.saw = self._adapter.read(session, resource)
                self._done.put("read")
                self._await("write")
                self._adapter.write(session, Write(resource, self._lease.fence, value), value + 1)
                self._done.put("write")
                self._await("leave")
            self.outcome = "committed"
        except _NotWanted:
            self.outcome = "not wanted"
        except Stale:
            self.outcome = "stale"
        except RedlockError as error:
            self.outcome, self.error = "refused", error
        except Exception as error:  # noqa: BLE001 - of whichever driver; `check` judges it
            self.outcome, self.error = "retryable" if self._adapter.retryable(error) else "failed", error
        finally:
            with contextlib.suppress(Exception):
                self._adapter.close(session)
            self.ended.set()
            self._done.put("ended")


class _NotWanted(BaseException):
    """The interleaving is over and this holder has steps left."""


def check(adapter: Adapter, interleaving: Interleaving, *, patience: float = 0.3) -> None:
    """Run an interleaving and check that no update was lost and that tokens were committed in order.

    Args:
        adapter: The fence under test.
        interleaving: What to run.
        patience: Seconds after which a step that may wait counts as waiting for another holder.

    Raises:
        AssertionError: A promise was broken; the message says which, and what each holder saw.
    """
    adapter.reset()
    holders = {name: _Holder(adapter, lease) for name, lease in interleaving.leases.items()}
    try:
        for name, action, may_wait in interleaving.steps:
            holders[name].tell(action, patience if may_wait else _STEP_SECONDS)
    finally:
        for holder in holders.values():
            holder.end()
    problems = list(_problems(adapter, interleaving, holders))
    if problems:
        told = "; ".join(
            f"{name} (token {interleaving.leases[name].fence}) read {holder.saw}, {holder.outcome}"
            + (f": {holder.error}" if holder.error else "")
            for name, holder in holders.items()
        )
        raise AssertionError(f"{interleaving.why}: {'; '.join(problems)} [{told}]")


def _problems(adapter: Adapter, interleaving: Interleaving, holders: Mapping[str, _Holder]) -> Iterator[str]:
    journal = adapter.committed()
    for resource in sorted({lease.names[0] for lease in interleaving.leases.values()}):
        writes = sorted((write for write in journal if write.resource == resource), key=lambda write: write.read)
        value = adapter.value(resource)
        if value != len(writes):
            yield f"an update of {resource!r} was lost: {len(writes)} holders committed and the value is {value}"
        for before, after in itertools.pairwise(writes):
            if after.read == before.read:
                yield f"tokens {before.token} and {after.token} both computed from {before.read}: one update is lost"
            elif after.token < before.token:
                yield f"token {after.token} was committed after the larger token {before.token}"
    for name, holder in holders.items():
        yield from _wrong_end(name, holder, interleaving)


def _wrong_end(name: str, holder: _Holder, interleaving: Interleaving) -> Iterator[str]:
    outcome = holder.outcome
    if outcome in {"failed", "did not end"}:
        yield f"{name} ended with an error that is neither Stale nor retryable"
    elif name in interleaving.stale and outcome == "committed":
        yield f"{name} passed with a stale token"
    elif name in interleaving.commits and outcome not in {"committed", "retryable"}:
        yield f"{name} had to pass and did not"


def random_interleavings() -> Any:  # noqa: ANN401 - a strategy of Hypothesis, which need not be installed
    """A Hypothesis strategy: three holders of growing tokens whose steps interleave in every way."""
    from hypothesis import strategies  # noqa: PLC0415 - only for users of Hypothesis

    leases = {"a": Lease(7, "a"), "b": Lease(8, "b"), "c": Lease(9, "c")}
    places = [name for name in leases for _ in range(4)]

    def build(order: list[str]) -> Interleaving:
        left = {name: iter(_ALL.split(",")) for name in leases}
        return Interleaving("a random order", leases, [Step(name, next(left[name]), may_wait=True) for name in order])

    return strategies.permutations(places).map(build)


class FencingConformance:
    """Base class for a test: give it a fixture `adapter`, and pytest runs every interleaving."""

    def test_the_interleavings_lose_no_update(self, adapter: Adapter) -> None:
        """Every interleaving of the kit, on one adapter."""
        for interleaving in INTERLEAVINGS.values():
            check(adapter, interleaving)

"""The interleavings of the conformance kit: the steps of each holder in order, and the holders that must pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


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
    """A lease without a lock, as a fence sees a lease: the kit gives tokens in any order."""

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


class Interleaving(NamedTuple):
    """Steps of several holders in a fixed order.

    Attributes:
        why: The attempt, as a short sentence.
        leases: The lease of each holder.
        steps: The steps in order.
        commits: The holders that must commit, unless they end with a retryable error. The others may be refused too: a
            fence that does not wait refuses a smaller token as soon as a larger one has entered.
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


def _token(number: int) -> int:
    """A token as of November 2026, in microseconds. A multiple of 2^45 is between the numbers 7 and 8.

    So a column or a comparison that keeps fewer bits takes two tokens for one, or for tokens in the wrong order.
    """
    return 51 * 2**45 - 8 + number


def resource_of(lease: Lease) -> str:
    """The name that the holder reads and writes: `account` if the lease has this name, or else the first name."""
    return "account" if "account" in lease.names else lease.names[0]


def _lease(number: int, owner: str, *names: str) -> Lease:
    return Lease(_token(number), owner, names or ("account",))


_ALL = "enter,read,write,leave"
_A, _B = _lease(7, "first"), _lease(8, "second")

INTERLEAVINGS: dict[str, Interleaving] = {
    "I1": Interleaving(
        "a holder is frozen between read and write, and a larger token comes",
        {"seed": _lease(5, "seed"), "a": _A, "b": _B},
        _steps(f"seed:{_ALL} a:enter,read b:enter?,read? a:write,leave b:write,leave"),
        commits=frozenset("b"),
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
        commits=frozenset("b"),
    ),
    "I5": Interleaving(
        "a smaller token comes twice after a larger one was committed",
        {"b": _B, "a": _A, "c": _A},
        _steps(f"b:{_ALL} a:{_ALL} c:{_ALL}"),
        commits=frozenset("b"),
        stale=frozenset("ac"),
    ),
    "I6": Interleaving(
        "an equal token comes again, once from the same lease and once from another",
        {"a": _A, "b": _A, "c": _lease(7, "other")},
        _steps(f"a:{_ALL} b:{_ALL} c:{_ALL}"),
        commits=frozenset("ab"),
        stale=frozenset("c"),
    ),
    "I7": Interleaving(
        "a holder waits for the row and then reads",
        {"a": _A, "b": _B},
        _steps("a:enter b:enter? a:read,write,leave b:read,write,leave"),
        commits=frozenset("b"),
    ),
    "I8": Interleaving(
        "two resource names differ in case and in a trailing blank only",
        {"a": _lease(8, "a", "acc"), "b": _lease(7, "b", "ACC"), "c": _lease(6, "c", "acc ")},
        _steps(f"a:{_ALL} b:{_ALL} c:{_ALL}"),
        commits=frozenset("abc"),
    ),
    "I9": Interleaving(
        "four holders use a resource for the first time at once",
        {name: _lease(6 + place, name) for place, name in enumerate("abcd")},
        _steps("a:enter? b:enter? c:enter? d:enter? " + " ".join(f"{name}:read?,write?,leave?" for name in "abcd")),
    ),
    "I10": Interleaving(
        "a holder looks at the data before its fence",
        {"a": _B, "b": _A},
        # Where a look locks, as at SERIALIZABLE on MariaDB, the write waits for the end of the other holder.
        _steps(f"a:look b:enter,read,write?,leave? a:{_ALL}"),
        commits=frozenset("b"),
    ),
    "I11": Interleaving(
        "a lease of two names comes after a larger token for the first or the second name",
        {
            "a": _lease(8, "a", "ACC"),
            "b": _lease(6, "b", "ACC", "acc"),
            "c": _lease(8, "c", "account"),
            "d": _lease(7, "d", "acc", "account"),
        },
        _steps(f"a:{_ALL} b:{_ALL} c:{_ALL} d:{_ALL}"),
        commits=frozenset("ac"),
        stale=frozenset("bd"),
    ),
    "I12": Interleaving(
        "a smaller token for the first or the second name comes after a lease of two names",
        {
            "a": _lease(8, "a", "acc", "account"),
            "b": _lease(7, "b", "account"),
            "c": _lease(9, "c", "ACC", "acc"),
            "d": _lease(7, "d", "ACC"),
        },
        _steps(f"a:{_ALL} b:{_ALL} c:{_ALL} d:{_ALL}"),
        commits=frozenset("ac"),
        stale=frozenset("bd"),
    ),
    "I13": Interleaving(
        "a holder of two names is frozen between read and write, and a larger token for the second name comes",
        {"a": _lease(7, "first", "acc", "account"), "b": _B},
        _steps("a:enter,read b:enter?,read? a:write,leave b:write,leave"),
        commits=frozenset("b"),
    ),
}
"""The interleavings that a fence must survive; each was lost by some adapter that looked right."""


def random_interleavings() -> Any:  # noqa: ANN401 - a strategy of Hypothesis, which need not be installed
    """A Hypothesis strategy: three holders of growing tokens whose steps interleave in every way.

    The second holder has a lease of two names.
    """
    from hypothesis import strategies  # noqa: PLC0415 - only for users of Hypothesis

    leases = {"a": _lease(7, "a"), "b": _lease(8, "b", "acc", "account"), "c": _lease(9, "c")}
    places = [name for name in leases for _ in range(4)]

    def build(order: list[str]) -> Interleaving:
        left = {name: iter(_ALL.split(",")) for name in leases}
        return Interleaving("a random order", leases, [Step(name, next(left[name]), may_wait=True) for name in order])

    return strategies.permutations(places).map(build)

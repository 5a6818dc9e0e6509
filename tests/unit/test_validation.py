"""`redlock._validation`: bad input gets one clear line, and nothing is half-done."""

from __future__ import annotations

import enum
import re
import threading
import warnings
from decimal import Decimal

import pytest

from redlock import ConfigurationError, Redlock, _validation
from redlock._core.commands import Release
from redlock._core.votes import deadline_ms
from redlock.fencing.redis_store import FencedTransaction, StoreWords
from tests.unit.helpers import script_call


class Shown(str):
    """Text that is shown as other text, as by some template libraries."""

    __slots__ = ()

    def __str__(self) -> str:
        return "shown"

    def __format__(self, _: str) -> str:
        return "shown"


class Names(str, enum.Enum):
    """Names as members of an enumeration; not of `StrEnum`, so formatting shows the name of the member."""

    MEMBER = "redis://127.0.0.1:7001"


@pytest.mark.parametrize("option", ["ttl", "max_ttl", "node_timeout"])
@pytest.mark.parametrize(
    "value", [0, -1, -0.5, float("nan"), float("inf"), True, False, "5", None, Decimal("NaN"), b"5", [5]]
)
def test_a_time_that_is_no_positive_number_of_seconds_is_refused(option: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"^{option} is .*; it must be seconds as a number greater than 0"):
        Redlock(**{option: value})  # type: ignore[arg-type]  # that is the point


def test_a_ttl_that_is_too_short_names_the_shortest_valid_ttl() -> None:
    with pytest.raises(ConfigurationError, match=r"at least 0\.206 s"):
        Redlock(ttl=0.2)
    Redlock(ttl=0.206)
    Redlock(ttl=0.05, node_timeout=0.01)


@pytest.mark.parametrize("ttl", [0.001, 0.05, 0.2, 0.205])
def test_the_ttl_that_a_refusal_names_would_be_taken(ttl: float) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Redlock(ttl=ttl)
    named = re.search(r"at least ([\d.]+) s", str(caught.value))
    assert named is not None
    Redlock(ttl=float(named[1]))


@pytest.mark.parametrize("value", [1e308, 10**400], ids=["1e308", "10**400"])
@pytest.mark.parametrize("option", ["ttl", "max_ttl", "node_timeout"])
def test_a_number_that_is_too_large_is_refused_like_any_other(option: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=option):
        Redlock(**{option: value})  # type: ignore[arg-type]  # one of the numbers


@pytest.mark.timeout(1)
def test_a_far_too_long_node_timeout_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="too short"):
        Redlock(node_timeout=1_000_000_000)


def test_times_are_rounded_down_and_never_to_nothing() -> None:
    assert Redlock(ttl=1.0009)._ttl_ms == 1_000
    assert Redlock(node_timeout=0.001_9)._context.pool.nodes[0].timeout_ms == 1
    with pytest.raises(ConfigurationError, match=r"node_timeout is 0\.0009; it must be at least 0\.001 s"):
        Redlock(node_timeout=0.000_9)


@pytest.mark.parametrize("value", [0, -1, "5", float("nan"), True])
def test_max_hold_is_checked_when_the_lock_is_made(value: object) -> None:
    with pytest.raises(ConfigurationError, match="max_hold"):
        Redlock().lock("x", max_hold=value)  # type: ignore[arg-type]  # that is the point


def test_a_ttl_beyond_max_ttl_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="longer than max_ttl, 10 s"):
        Redlock().lock("x", ttl=10.5)


@pytest.mark.parametrize("name", ["", "x" * 10_000, "a\x00b", "a\nb", "\x01redlock:node", "\ud800", b"x", 5, None])
def test_a_resource_name_that_cannot_be_one_is_refused(name: object) -> None:
    with pytest.raises(ConfigurationError, match="resource name"):
        Redlock().lock(name)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "is empty; give the thing that is locked a name, such as 'account:42'"),
        ("x" * 1_025, "has 1025 bytes; 1024 are the most"),
        ("\N{SNOWMAN}" * 342, "has 1026 bytes"),
        ("a\x85b", "control character"),
        ("a\x7f", "control character"),
        ("a\u202eb", "holds U+202E, an invisible character"),
        ("a\u200bb", "U+200B"),
        ("a\xadb", "U+00AD"),
        ("a\u2028b", "U+2028"),
        ("a\xa0b", "U+00A0"),
        ("a\u3164b", "U+3164"),
        ("a\ufe0fb", "U+FE0F"),
        ("\udc80", "half a surrogate pair"),
        (b"x", "is bytes b'x'; it must be text"),
        (None, "is NoneType None; it must be text"),
    ],
)
def test_a_name_that_is_refused_hears_why_in_one_short_line(name: object, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        _validation.resource(name)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("prefix", ["a\n", "x" * 2_000, 5, None, b"x"])
def test_a_prefix_is_checked_as_a_name_is_but_may_be_empty(prefix: object) -> None:
    with pytest.raises(ConfigurationError, match="prefix"):
        Redlock(prefix=prefix)  # type: ignore[arg-type]  # that is the point
    Redlock(prefix="")


@pytest.mark.parametrize("names", [["a", ""], ["a", 5], ("a", None), [["a"]], ("",), (5,)])
def test_one_bad_name_in_a_set_is_enough(names: object) -> None:
    with pytest.raises(ConfigurationError, match="resource name"):
        _validation.resources(names)


@pytest.mark.parametrize("name", ["account:42", "a b", "{tag}:x", "ünïcode", "x" * 1_024])
def test_ordinary_names_are_names(name: str) -> None:
    assert Redlock().lock(name).name == name


@pytest.mark.parametrize("given", [Names.MEMBER, Shown("redis://127.0.0.1:7001")], ids=["enumeration", "other"])
def test_text_of_any_class_counts_as_its_characters(given: str) -> None:
    """Each form of a key has the same characters; else two holders would use two fences."""
    plain = "redis://127.0.0.1:7001"
    checked = [
        Redlock().lock(given).names[0],
        Redlock().lock([given]).names[0],
        Redlock().lease(given).names[0],
        _validation.resource(given),
        _validation.prefix(given),
        _validation.operation(given),
        *_validation.node_list([given]),
        *_validation.node_list(given),
        Redlock(prefix=given)._context.codec.prefix,
        Redlock().lease("x", owner_label=given)._owner_label,
        *StoreWords("", 1).writing(FencedTransaction(given, None, 1, 1, "owner"), "new", "op")[0],
    ]
    assert [type(text) for text in checked] == [str] * len(checked)
    assert checked == [plain] * 11 + [f"{plain}\x01done:op"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert Redlock([given])._context.nodes[0].label == "127.0.0.1:7001"


def test_a_set_of_names_is_sorted_without_duplicates() -> None:
    assert Redlock().lock(["b", "a", "b"]).names == ("a", "b")
    with pytest.raises(ConfigurationError, match="empty"):
        Redlock().lock([])


@pytest.mark.parametrize("nodes", [[], "", " , ", None, 5, [5], {"a": 1}])
def test_a_list_of_nodes_that_is_none_is_refused(nodes: object) -> None:
    with pytest.raises(ConfigurationError, match="nodes"):
        Redlock(nodes)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("nodes", [[5], ["redis://a:1", None]])
def test_an_address_that_is_no_text_is_pointed_at(nodes: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        _validation.node_list(nodes)
    assert "int" in str(caught.value) or "None" in str(caught.value)


@pytest.mark.parametrize(
    ("count", "said"), [(1, "no failure is tolerated"), (2, "0 failures"), (4, "1 failure,"), (6, "2 failures")]
)
def test_an_unwise_number_of_nodes_gives_a_warning(count: int, said: str) -> None:
    with pytest.warns(UserWarning, match=said) as warned:
        Redlock([f"redis://h:{port}" for port in range(1, count + 1)])
    assert [warning.filename for warning in warned] == [__file__], "the warning names the line of the caller"


def test_three_and_five_nodes_need_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for count in (3, 5):
            Redlock([f"redis://h:{port}" for port in range(1, count + 1)])


def test_zero_is_a_time_to_wait_and_no_default() -> None:
    """Of redlock-py: `x or default` swallowed it."""
    assert _validation.acquire_timeout(0) == 0.0
    with pytest.raises(ConfigurationError, match="0 or more"):
        Redlock().lock("x", blocking_timeout=-1)


@pytest.mark.parametrize("value", [threading.TIMEOUT_MAX, float("inf"), 10**400], ids=["most", "inf", "10**400"])
def test_a_wait_without_an_end_may_be_a_number(value: float) -> None:
    assert _validation.acquire_timeout(value) is None
    Redlock().lock("x", blocking_timeout=value)
    options = Redlock().lock("x", blocking_timeout=1)._options
    assert [options.acquire_timeout_ms(None, seconds) for seconds in (None, value)] == [1000, None]


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), True, "5"])
def test_a_wait_that_is_no_number_of_seconds_is_refused(value: object) -> None:
    with pytest.raises(ConfigurationError, match="blocking_timeout is"):
        _validation.acquire_timeout(value)  # type: ignore[arg-type]  # that is the point


def test_the_shortest_node_timeout_still_reserves_a_lock() -> None:
    """Redis refuses an expiry of 0 ms, and the script ends after the first name."""
    call = script_call(Redlock(node_timeout=0.001)._context.pool.codec, Release(("x", "y"), "token", 1_000))
    assert int(call.arguments[-1]) >= 1


def test_a_lease_of_no_time_is_not_taken_for_the_default() -> None:
    try:
        lease = Redlock().lease("x", ttl_ms=0)
    except ConfigurationError:
        return
    assert lease.ttl_ms == 0


@pytest.mark.parametrize("value", [10_001, 60_000, True, -1, 1.5, "5000"])
def test_a_lease_whose_time_is_no_good_is_refused(value: object) -> None:
    with pytest.raises(ConfigurationError, match="ttl"):
        Redlock(ttl=5.0, max_ttl=10.0).lease("x", ttl_ms=value)  # type: ignore[arg-type]  # that is the point
    assert Redlock(ttl=5.0, max_ttl=10.0).lease("x", ttl_ms=10_000).ttl_ms == 10_000


@pytest.mark.parametrize("value", [True, -1, 1.5, "1", None, float("nan")])
def test_a_count_is_a_whole_number_and_may_be_zero(value: object) -> None:
    with pytest.raises(ConfigurationError, match="whole number, 0 or more"):
        _validation.count("max_requeues", value)
    assert _validation.count("max_requeues", 0) == 0


@pytest.mark.parametrize("value", [0, 1_001, -1, True, 5.0, None])
def test_a_count_with_ends_is_between_them(value: object) -> None:
    with pytest.raises(ConfigurationError, match=r"^limit is .*; it must be a whole number from 1 to 1,000$"):
        _validation.count("limit", value, least=1, most=1_000)
    assert [_validation.count("limit", end, least=1, most=1_000) for end in (1, 1_000)] == [1, 1_000]


def test_an_operation_id_has_a_limit() -> None:
    """A task id of any length must not become a key of the fenced store."""
    assert _validation.operation("x" * 1_024)
    with pytest.raises(ConfigurationError, match="1025 bytes; 1024 are the most"):
        _validation.operation("x" * 1_025)


@pytest.mark.parametrize("node_timeout_ms", [*range(1, 120), 500, 999, 5_000])
def test_the_least_ttl_covers_two_node_timeouts_and_the_drift(node_timeout_ms: int) -> None:
    def left_ms(ttl_ms: int) -> int:
        return deadline_ms(ttl_ms, 0) - 2 * node_timeout_ms

    least = _validation.least_ttl_ms(node_timeout_ms)
    assert left_ms(least) >= 0
    assert left_ms(least - 1) < 0


def test_a_ttl_and_an_extension_may_be_as_long_as_max_ttl() -> None:
    assert _validation.ttl_ms(10, max_ttl_ms=10_000, node_timeout_ms=100) == 10_000
    assert _validation.extension_ms(10, max_ttl_ms=10_000) == 10_000
    assert _validation.extension_ms(0.3, max_ttl_ms=10_000) == 300
    with pytest.raises(ConfigurationError, match=r"would last 10\.001 s from now, longer than max_ttl, 10 s"):
        _validation.extension_ms(10.001, max_ttl_ms=10_000)


@pytest.mark.parametrize("op_id", ["", None, 7, b"op", "\ud800"])
def test_an_operation_id_is_text(op_id: object) -> None:
    with pytest.raises(ConfigurationError, match="operation id"):
        _validation.operation(op_id)


def test_a_number_of_nodes_that_wastes_one_is_said_so() -> None:
    assert [_validation.tolerance(nodes) for nodes in (3, 5, 7)] == [None] * 3
    assert _validation.tolerance(4) == "4 lock nodes tolerate 1 failure, no more than 3 do; use an odd number"
    assert _validation.tolerance(6) == "6 lock nodes tolerate 2 failures, no more than 5 do; use an odd number"
    assert str(_validation.tolerance(1)).startswith("one lock node")

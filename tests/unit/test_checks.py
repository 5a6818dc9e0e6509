"""`redlock.checks` and `redlock.address`: bad input gets one clear line, and nothing is half-done."""

from __future__ import annotations

import warnings
from decimal import Decimal

import pytest

from redlock import ConfigurationError, Redlock, address, checks

CANARY = "canary-b7Qx"


@pytest.mark.parametrize(
    "value", [0, -1, -0.5, float("nan"), float("inf"), True, False, "5", None, Decimal("NaN"), b"5", [5]]
)
def test_a_ttl_that_is_no_positive_number_of_seconds_is_refused(value: object) -> None:
    with pytest.raises(ConfigurationError, match="seconds as a number greater than 0"):
        Redlock(ttl=value)  # type: ignore[arg-type]  # that is the point


def test_a_ttl_too_short_for_its_timeouts_is_refused_with_the_least_that_works() -> None:
    with pytest.raises(ConfigurationError, match=r"at least 0\.206 s"):
        Redlock(ttl=0.2)
    Redlock(ttl=0.206)
    Redlock(ttl=0.05, node_timeout=0.01)


def test_a_ttl_beyond_max_ttl_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="longer than max_ttl, 10 s"):
        Redlock().lock("x", ttl=10.5)


@pytest.mark.parametrize("name", ["", "x" * 10_000, "a\x00b", "a\nb", "\x01redlock:node", "\ud800", b"x", 5, None])
def test_a_resource_name_that_cannot_be_one_is_refused(name: object) -> None:
    with pytest.raises(ConfigurationError, match="resource name"):
        Redlock().lock(name)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("name", ["account:42", "a b", "{tag}:x", "ünïcode", "x" * 1_024])
def test_ordinary_names_are_names(name: str) -> None:
    assert Redlock().lock(name).name == name


def test_a_set_of_names_has_an_order_of_its_own_and_each_name_once() -> None:
    assert Redlock().lock(["b", "a", "b"]).names == ("a", "b")
    with pytest.raises(ConfigurationError, match="empty"):
        Redlock().lock([])


@pytest.mark.parametrize("nodes", [[], "", " , ", None, 5, [5], {"a": 1}])
def test_a_list_of_nodes_that_is_none_is_refused(nodes: object) -> None:
    with pytest.raises(ConfigurationError, match="nodes"):
        Redlock(nodes)  # type: ignore[arg-type]  # that is the point


def test_nodes_may_be_one_text_with_commas() -> None:
    client = Redlock("redis://a:1, redis://b:2,redis://c:3")
    assert [node.label for node in client.driver.nodes] == ["a:1", "b:2", "c:3"]


def test_a_node_listed_twice_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="node a:1 is listed twice"):
        Redlock(["redis://a:1", "redis://x:y@a:1", "redis://b:1"])


@pytest.mark.parametrize(
    ("count", "said"), [(1, "no failure is tolerated"), (2, "0 failures"), (4, "1 failure,"), (6, "2 failures")]
)
def test_a_number_of_nodes_that_is_not_sensible_works_with_a_warning(count: int, said: str) -> None:
    with pytest.warns(UserWarning, match=said):
        Redlock([f"redis://h:{port}" for port in range(1, count + 1)])


def test_three_and_five_nodes_need_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for count in (3, 5):
            Redlock([f"redis://h:{port}" for port in range(1, count + 1)])


def test_zero_is_a_time_to_wait_and_no_default() -> None:
    """Of redlock-py: `x or default` swallowed it."""
    assert checks.patience(0) == 0.0
    with pytest.raises(ConfigurationError, match="0 or more"):
        Redlock().lock("x", blocking_timeout=-1)


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("127.0.0.1:63791", "127.0.0.1:63791"),
        ("redis://user:p%40ss%2Fw%3Ao%23rd@h:1/3", "h:1/3"),
        ("rediss://[::1]:7", "[::1]:7"),
        ("unix:///run/redis.sock", "/run/redis.sock"),
    ],
)
def test_addresses_and_their_labels(url: str, label: str) -> None:
    assert address.label(address.parse(url)) == label


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{CANARY}@h",
        f"redis://:{CANARY}@h:99999",
        f"redis://:{CANARY}@h:x",
        f"redis://:{CANARY}@:1",
        f"redis://:{CANARY}@h:1/db",
        f"http://:{CANARY}@h:1",
        f"sentinel://:{CANARY}@h:1",
        f"redis://h:1?db=x&password={CANARY}",
        f"unix://?password={CANARY}",
        f"redis://:{CANARY}@h:1?no_such_option=1",
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Redlock([url, "redis://b:1", "redis://c:1"])
    assert CANARY not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_making_a_client_dials_nothing() -> None:
    """The unit tests' conftest refuses every connection."""
    Redlock().lock("x")

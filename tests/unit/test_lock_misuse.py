"""Calls that look right and are not get one clear line."""

from __future__ import annotations

import asyncio
import copy
import functools
import pickle
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from redlock import ConfigurationError, Redlock, RedlockError
from redlock.asyncio import Redlock as AsyncRedlock
from redlock.fencing import AsyncFencedStore, FencedStore

CLIENTS = pytest.mark.parametrize("client", [Redlock(), AsyncRedlock()], ids=["threads", "asyncio"])


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("timeout", "`ttl`"),
        ("sleep", "leave the option out"),
        ("lock_class", "leave the option out"),
        ("raise_on_release_error", "LockLost"),
    ],
)
def test_options_of_redis_py_are_refused_by_name(option: str, hint: str) -> None:
    options: dict[str, Any] = {option: 10}
    with pytest.raises(ConfigurationError, match=f"'{option}'.*{hint}"):
        Redlock().lock("x", **options)


@pytest.mark.parametrize(("option", "hint"), [("timeout", "blocking_timeout"), ("sleep", "leave"), ("token", "leave")])
def test_options_of_redis_pys_acquire_are_refused_by_name(option: str, hint: str) -> None:
    options: dict[str, Any] = {option: 0.1}
    with pytest.raises(ConfigurationError, match=f"'{option}'.*{hint}"):
        Redlock().lock("x").acquire(**options)


def test_an_unknown_option_is_a_type_error_as_in_any_call() -> None:
    options: dict[str, Any] = {"blocking_timout": 1}
    with pytest.raises(TypeError, match="blocking_timout"):
        Redlock().lock("x", **options)
    with pytest.raises(TypeError, match="blocking_timout"):
        Redlock().lock("x").acquire(**options)


@pytest.mark.parametrize("sleep", [0.1, 1, 0])
def test_a_positional_number_is_no_blocking(sleep: Any) -> None:  # noqa: ANN401 - whatever is passed
    with pytest.raises(ConfigurationError, match="must be True or False"):
        Redlock().lock("x").acquire(sleep)


def test_a_lock_in_a_running_event_loop_is_refused() -> None:
    async def wrong(client: Redlock) -> None:
        with client.lock("x"):
            pass

    client = Redlock()
    with pytest.raises(RedlockError, match=r"use redlock\.asyncio\.Redlock.*allow_event_loop") as caught:
        asyncio.run(wrong(client))
    assert type(caught.value) is RedlockError


@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_client_is_never_pickled(take: Any) -> None:  # noqa: ANN401 - any of these
    client = Redlock([f"redis://:canary-b7Qx@127.0.0.1:{port}" for port in range(1, 6)])
    with pytest.raises(TypeError, match="make a client in the child process") as caught:
        take(client)
    assert "canary" not in str(caught.value)
    with pytest.raises(TypeError, match="make a client in the child process"):
        pickle.dumps({"client": client, "lock": client.lock("x")})


@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_lock_lease_or_store_is_never_copied(take: Any) -> None:  # noqa: ANN401 - any of these
    client = Redlock()
    url = "redis://:canary-b7Qx@127.0.0.1:7001"
    for original, right in (
        (client.lock("x"), r"make another with the client's lock\(\)"),
        (AsyncRedlock().lock("x"), r"make another with the client's lock\(\)"),
        (client.lease("x"), "use the lease itself"),
        (FencedStore(url), "make a store in the child process"),
        (AsyncFencedStore(url), "make a store in the child process"),
    ):
        with pytest.raises(TypeError, match=f"can't be copied or pickled.*{right}") as caught:
            take(original)
        assert "canary" not in str(caught.value)


async def on_lost_as_coroutine(_: object) -> None:
    """A callback that needs an event loop."""


def on_lost_as_generator(_: object) -> Iterator[None]:
    """A callback that a call does not run."""
    yield


async def on_lost_as_async_generator(_: object) -> AsyncIterator[None]:
    """The same for asyncio."""
    yield


class Coroutine:
    """An object that is called like a coroutine function."""

    async def __call__(self, _: object) -> None:
        """Do nothing."""


@pytest.mark.parametrize(
    ("on_lost", "right"),
    [
        ("cancel", "a function, which gets the lease; only redlock.asyncio can cancel a block"),
        (5, "a function, which gets the lease"),
        (on_lost_as_coroutine, "use a plain function, or redlock.asyncio"),
        (functools.partial(on_lost_as_coroutine), "use a plain function, or redlock.asyncio"),
        (Coroutine(), "use a plain function, or redlock.asyncio"),
        (on_lost_as_generator, "use a function"),
        (on_lost_as_async_generator, "use a function"),
    ],
)
def test_a_thread_refuses_a_callback_that_could_not_run(on_lost: Any, right: str) -> None:  # noqa: ANN401 - whatever is passed
    for make in (Redlock().lock, Redlock().lease):
        with pytest.raises(ConfigurationError, match=f"^on_lost is .*{right}$"):
            make("x", on_lost=on_lost)


@pytest.mark.parametrize("on_lost", [5, "raise", on_lost_as_generator, on_lost_as_async_generator])
def test_asyncio_refuses_a_callback_that_could_not_run(on_lost: Any) -> None:  # noqa: ANN401 - whatever is passed
    with pytest.raises(ConfigurationError, match=r"^on_lost is .*function"):
        AsyncRedlock().lock("x", on_lost=on_lost)


@pytest.mark.parametrize("on_lost", [None, "cancel", on_lost_as_coroutine, Coroutine(), print])
def test_asyncio_takes_each_callback_that_can_run(on_lost: Any) -> None:  # noqa: ANN401 - each kind
    assert AsyncRedlock().lock("x", on_lost=on_lost)


@CLIENTS
@pytest.mark.parametrize("value", ["no", 5, 0, 1, 1.0, None, []])
@pytest.mark.parametrize("option", ["blocking", "renew", "reentrant", "wait_for_release"])
def test_an_option_that_is_yes_or_no_takes_nothing_else(client: Any, option: str, value: object) -> None:  # noqa: ANN401 - both clients
    # Options that were checked are remembered, and 1 equals True.
    client.lock("x", **{option: bool(value)})
    with pytest.raises(ConfigurationError, match=f"{option} is {re.escape(repr(value))}; it must be True or False"):
        client.lock("x", **{option: value})


@CLIENTS
def test_a_number_of_another_class_is_not_remembered(client: Any) -> None:  # noqa: ANN401 - both clients
    """Two such numbers can be equal and mean other times, and can keep large objects."""

    class Seconds(int):
        unit = 1

        def __float__(self) -> float:
            return float(self.unit * int(self))

    short, long = Seconds(5), Seconds(5)
    long.unit = 60
    found = [client.lock("x", max_hold=seconds)._options.lease.max_hold_ms for seconds in (short, long)]
    assert found == [5_000, 300_000]


@CLIENTS
def test_a_callback_is_that_of_its_lock_only(client: Any) -> None:  # noqa: ANN401 - both clients
    found = [client.lock("x", on_lost=call)._options.lease.on_lost for call in (print, None, repr)]
    assert found == [print, None, repr]


def test_the_options_of_threads_are_checked_too() -> None:
    wrong: Any = "no"
    with pytest.raises(ConfigurationError, match="thread_local is 'no'; it must be True or False"):
        Redlock().lock("x", thread_local=wrong)
    with pytest.raises(ConfigurationError, match="allow_event_loop is 'no'; it must be True or False"):
        Redlock(allow_event_loop=wrong)


@CLIENTS
@pytest.mark.parametrize("fence", ["7", None, 7.5, float("nan"), -1, True])
def test_a_token_that_is_no_whole_number_is_not_observed(client: Any, fence: object) -> None:  # noqa: ANN401 - both clients
    with pytest.raises(ConfigurationError, match=r"^the fencing token is .*; it must be a whole number, 0 or more$"):
        client.observe_fence("x", fence)


def test_the_options_of_a_lease_are_checked() -> None:
    wrong: Any = 5.5
    with pytest.raises(ConfigurationError, match=r"^owner_label is float 5\.5; it must be text \(str\)$"):
        Redlock().lease("x", owner_label=wrong)
    with pytest.raises(ConfigurationError, match=r"^max_hold_ms is 5\.5; it must be a whole number, 0 or more$"):
        Redlock().lease("x", max_hold_ms=wrong)
    with pytest.raises(ConfigurationError, match=r"^acquire_timeout_ms is 5\.5; it must be a whole number, 0 or more$"):
        Redlock().lease("x").acquire(wrong)
    with pytest.raises(ConfigurationError, match=r"^renew is 5\.5; it must be True or False$"):
        Redlock().lease("x", renew=wrong)
    with pytest.raises(ConfigurationError, match=r"^replace_ttl is 5\.5; it must be True or False$"):
        Redlock().lease("x")._extension_seconds(1.0, replace_ttl=wrong)

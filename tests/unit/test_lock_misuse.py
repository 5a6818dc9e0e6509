"""Calls that look right and are not get one clear line."""

from __future__ import annotations

import asyncio
import copy
import pickle
from typing import Any

import pytest

from redlock import ConfigurationError, Redlock, RedlockError


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

"""The Redis client of a fenced store: checked, or made from a URL.

Invariants: no message shows a part of a URL that may be secret, and no error has such a message as its context.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

import redis.asyncio
from redis.client import Pipeline
from redis.exceptions import RedisError

from redlock._transport import address
from redlock.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

C = TypeVar("C")

_FOR_THREADS = (redis.Redis, redis.RedisCluster)
_FOR_ASYNCIO = (redis.asyncio.Redis, redis.asyncio.RedisCluster)
_CLUSTERS = (redis.RedisCluster, redis.asyncio.RedisCluster)
_WRONG: Mapping[type[Any], tuple[tuple[type[Any], ...], str]] = {
    redis.Redis: (_FOR_ASYNCIO, "give a client of `redis.Redis`, or use `AsyncFencedStore`"),
    redis.asyncio.Redis: (_FOR_THREADS, "give a client of `redis.asyncio.Redis`, or use `FencedStore`"),
}
_WRONG_OPTION = (RedisError, AttributeError, MemoryError, NameError, OverflowError, ValueError)
"""The errors of redis-py 5.0 to 8.1 for the value of an option. `NameError`: before 8.1 for a wrong `protocol`.

Not all exceptions: a signal handler may raise an exception there that is meant for the caller.
"""


def store_client(kind: type[C], given: C | str) -> C:
    """The client of this kind that was given, or a client for the URL that was given.

    Raises:
        ConfigurationError: The URL or the client cannot be used.
    """
    client = _from_url(kind, given) if isinstance(given, str) else _checked(kind, given)
    encoder = getattr(client, "get_encoder", None)
    encoding = encoder().encoding if encoder is not None else "utf-8"
    if re.sub("[-_]", "", encoding.lower()) != "utf8":
        raise ConfigurationError("the client of the fenced store has another encoding than UTF-8; leave `encoding` out")
    return client


def is_of_a_cluster(client: object) -> bool:
    """Whether this client spreads keys over the nodes of a Redis Cluster."""
    return isinstance(client, _CLUSTERS)


def _checked(kind: type[C], given: C) -> C:
    wrong, right = _WRONG[kind]
    if isinstance(given, type):
        raise ConfigurationError(f"the client of the fenced store is the class {given.__qualname__}; {right}")
    name = f"{type(given).__module__}.{type(given).__qualname__}".removeprefix("builtins.")
    if isinstance(given, (*wrong, Pipeline, redis.asyncio.client.Pipeline)):
        raise ConfigurationError(f"the client of the fenced store is {name}; {right}")
    if not callable(getattr(given, "register_script", None)):
        right = "it must be a client of redis-py, or the URL of a Redis"
        raise ConfigurationError(f"the client of the fenced store is {name}; {right}")
    return given


def _from_url(kind: Any, url: str) -> Any:  # noqa: ANN401 - a client of either kind
    problem = ""
    try:
        address.parse(url)
        client = kind.from_url(url if "://" in url else f"redis://{url}")
        pool = client.connection_pool
        # Otherwise only the first use would show an option that is wrong.
        pool.connection_class(**pool.connection_kwargs)
    except ConfigurationError as error:
        problem = f"the address of the fenced store cannot be used: {error}"
    except TypeError:
        problem = "the address of the fenced store has an option that is not known"
    except _WRONG_OPTION:
        problem = "an option of the address of the fenced store cannot be used"
    if problem:
        # Outside the handler and without redis-py's message: that error may repeat a part of the URL.
        raise ConfigurationError(problem)
    return client

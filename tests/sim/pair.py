"""A real and a simulated server: both run the same script, and every word of the replies is compared.

Only times are compared loosely; all other words are compared exactly, with their types.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from redlock.testing import redis_server
from tests.sim import nodes as simulated
from tests.sim.world import World

LOOSE_MS = 5_000
_ABSTAINS = 2
"""The first word of a reply of a node that abstains."""
VOTE = (1, 4)
"""In a vote these are the time and the remaining time; where a node abstains, the third is."""


@contextlib.contextmanager
def running(executable: str) -> Iterator[Redis]:
    server = redis_server.Server(program=executable)
    try:
        with Redis.from_url(server.start().url, decode_responses=True, protocol=2) as client:
            yield client
    finally:
        server.stop()


class Pair:
    """A real and a simulated server that get the same commands."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.lua = simulated.Lua()
        self.world = World(0)
        self.node = simulated.Node(self.world, self.lua, 0)
        self.node.offset_ms = 0
        self.compared = 0

    def catch_up(self) -> None:
        """The simulated server's clock follows the clock of the real server."""
        self.world.now = time.time_ns() // 1_000

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)
        self.catch_up()

    def run(self, source: str, keys: tuple[str, ...], arguments: tuple[str, ...], *, loose: tuple[int, ...]) -> Any:  # noqa: ANN401 - Lua's
        """Run a script on both servers, compare, and return the reply."""
        self.catch_up()
        compiled = self.lua._compile(source)
        mine = self.node.run_words(compiled, len(keys), (*keys, *arguments))
        try:
            theirs: Any = self.redis.eval(source, len(keys), *keys, *arguments)
        except ResponseError as error:
            theirs = error
        self.compare(theirs, mine, loose, f"{keys} {arguments}")
        return mine

    def compare(self, theirs: Any, mine: Any, loose: tuple[int, ...], what: str) -> None:  # noqa: ANN401 - Lua's
        """Fail unless both replies are the same."""
        self.compared += 1
        if isinstance(theirs, Exception) or isinstance(mine, Exception):
            both = isinstance(theirs, Exception) and isinstance(mine, Exception)
            assert both, f"{what}: {theirs!r} and {mine!r}"
            # Up to 6.2 an error inside a script begins with the script's name.
            code = str(mine).split()[0]
            assert code in str(theirs), f"{what}: {theirs!r} and {mine!r}"
            return
        listed = theirs if isinstance(theirs, list) else [theirs]
        if loose == VOTE and listed[0] == _ABSTAINS:
            loose = (1, 2)
        assert len(listed) == len(mine), f"{what}: {theirs!r} and {mine!r}"
        for place, (real, simulated_one) in enumerate(zip(listed, mine, strict=True)):
            if place in loose:
                assert type(real) is type(simulated_one), f"{what}: {theirs!r} and {mine!r}"
                # Negative remaining times are words, not times.
                assert (int(real) < 0) == (int(simulated_one) < 0), f"{what}: {theirs!r} and {mine!r}"
                assert abs(int(real) - int(simulated_one)) <= LOOSE_MS, f"{what}: {theirs!r} and {mine!r}"
            else:
                assert real == simulated_one, f"{what}: {theirs!r} and {mine!r}"
                assert type(real) is type(simulated_one), f"{what}: {theirs!r} and {mine!r}"

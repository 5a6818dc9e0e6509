"""Servers that are started for demos and tests."""

from __future__ import annotations

from redlock.testing.redis_server import Server
from tests.integration.tools import raw

SLOW_TO_LOAD = ("--key-load-delay", "1000", "--rdbcompression", "no")


def test_a_server_has_loaded_its_data_when_it_is_started() -> None:
    server = Server(options=SLOW_TO_LOAD)
    try:
        server.start()
        with raw(server) as redis:
            # A server that loads its data answers every 2 MB.
            redis.mset({f"key-{number}": "x" * 100_000 for number in range(200)})
            redis.save()
        server.kill()
        server.start()

        with raw(server) as redis:
            assert redis.dbsize() == 200
    finally:
        server.stop()

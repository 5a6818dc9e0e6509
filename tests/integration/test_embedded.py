"""Servers and workers that are started for demos and tests."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from redlock.testing.redis_server import Server
from tests.integration.shell import is_running
from tests.integration.tools import eventually, raw, talking

if TYPE_CHECKING:
    from pathlib import Path

STARTER = """
import os, pathlib, signal, sys
from tests.integration.worker_fixture import Worker
worker = Worker(pathlib.Path(sys.argv[1]), dict(os.environ), ["-A", "workers.app", "worker", "--pool", "solo"])
print(worker.process.pid, flush=True)
signal.pause()
"""
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


@pytest.mark.skipif(sys.platform != "linux", reason="only its kernel kills the children")
def test_a_worker_ends_with_a_test_run_that_is_killed(tmp_path: Path) -> None:
    with talking("-c", STARTER, str(tmp_path)) as (_, _, said):
        pid = int(said.readline())
        assert is_running(pid)
    eventually(lambda: not is_running(pid), "the end of the worker")

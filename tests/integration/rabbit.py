"""A RabbitMQ server for the length of a test."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.rabbitmq import RabbitMQ, program

PROGRAM = program()
needs_rabbitmq = pytest.mark.skipif(PROGRAM is None, reason="no rabbitmq-server")


@contextlib.contextmanager
def rabbit(*settings: str) -> Iterator[RabbitMQ]:
    """Run a fresh server with these lines of configuration during the block."""
    with tempfile.TemporaryDirectory(prefix="rabbit-", ignore_cleanup_errors=True) as directory:
        server = RabbitMQ(Path(directory), settings)
        try:
            server.start()
            yield server
        finally:
            server.kill()

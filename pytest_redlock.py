"""The pytest plugin: real lock nodes for the tests of a project that uses this package.

    def test_a_transfer_waits_for_its_turn(redlock_nodes, redlock_client): ...

Invariants:
1. A test run without these fixtures imports neither redis nor Celery nor `redlock`. For this reason the plugin is no
   module of the package: its import would import the package.
2. The servers live as long as the test run, and are reset for each test that uses them.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redlock import Redlock
    from redlock.asyncio import Redlock as AsyncRedlock
    from redlock.testing import LockNodes


@pytest.fixture(scope="session")
def _redlock_servers() -> Iterator[LockNodes]:
    from redlock.errors import ConfigurationError  # noqa: PLC0415 - rule 1
    from redlock.testing import lock_nodes  # noqa: PLC0415 - rule 1

    with contextlib.ExitStack() as stack:
        try:
            nodes = stack.enter_context(lock_nodes())
        except ConfigurationError as error:
            pytest.fail(str(error), pytrace=False)
        yield nodes


@pytest.fixture
def redlock_prefix() -> str:
    """The prefix of the project's resource names. A project with a prefix overrides this fixture."""
    return ""


@pytest.fixture
def redlock_nodes(_redlock_servers: LockNodes, redlock_prefix: str) -> LockNodes:
    """Five real lock nodes, empty and voting; `.urls`, and `[0].kill()`, `.freeze()`, `.cut()`, `.empty()`, ..."""
    _redlock_servers.reset(redlock_prefix)
    return _redlock_servers


@pytest.fixture
def redlock_client(redlock_nodes: LockNodes, redlock_prefix: str) -> Iterator[Redlock]:
    """A `Redlock` client of these nodes with the default settings and the prefix."""
    from redlock import Redlock  # noqa: PLC0415 - rule 1

    with Redlock(redlock_nodes.urls, prefix=redlock_prefix) as client:
        yield client


@pytest.fixture
def redlock_async_client(redlock_nodes: LockNodes, redlock_prefix: str) -> Iterator[AsyncRedlock]:
    """A `redlock.asyncio.Redlock` client of these nodes, for any event loops; closed after the test."""
    from redlock.asyncio import Redlock  # noqa: PLC0415 - rule 1

    client = Redlock(redlock_nodes.urls, prefix=redlock_prefix)
    yield client
    client._context.close_stopped_loops()

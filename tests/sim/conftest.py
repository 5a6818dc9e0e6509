"""Fixtures of the simulated tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sim.calls import Cluster
from tests.sim.source import Source


@pytest.fixture(scope="module")
def source() -> Source:
    """The shipped sources, loaded once for the tests of a file."""
    return Source()


@pytest.fixture
def cluster(source: Source) -> Iterator[Cluster]:
    """A simulated cluster with virtual clocks."""
    cluster = Cluster(source)
    yield cluster
    cluster.world.close()

"""Fixtures of the simulated tests, and their longer time limit.

These tests only compute, so their time tells how busy the machine is.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.sim.calls import Cluster
from tests.sim.source import Source

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECONDS = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test of this folder more time than the tests that wait for servers."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(_SECONDS))


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

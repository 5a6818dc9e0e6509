"""Fixtures of the simulated tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.sim.calls import Cluster
    from tests.sim.source import Source


def pytest_pycollect_makemodule() -> None:
    """Skip the folder if a new Python has no wheel of the Lua runtime, which needs a C compiler then."""
    pytest.importorskip("lupa", reason="no wheel of lupa for this Python")


@pytest.fixture(scope="module")
def source() -> Source:
    """The shipped sources, loaded once for the tests of a file."""
    from tests.sim.source import Source  # noqa: PLC0415 - this file is imported without lupa too

    return Source()


@pytest.fixture
def cluster(source: Source) -> Iterator[Cluster]:
    """A simulated cluster with virtual clocks."""
    from tests.sim.calls import Cluster  # noqa: PLC0415 - as above

    cluster = Cluster(source)
    yield cluster
    cluster.world.close()

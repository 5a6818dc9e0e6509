"""The time limit of the simulated tests: they only compute, so their time says how busy the machine is."""

from __future__ import annotations

from pathlib import Path

import pytest

_SECONDS = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test of this folder more time than the tests that wait for servers."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(_SECONDS))

"""A fixture for all tests with faults."""

from __future__ import annotations

import pytest

from tests.integration.tools import limit_releases


@pytest.fixture(autouse=True)
def _releases_are_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release waits for the reply of a node that is late: without the replies no release finds a lease lost."""
    limit_releases(monkeypatch, 3_000)

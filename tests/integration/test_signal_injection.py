"""Exceptions out of signals (time limits, SIGTERM) may strike anywhere: nothing is left locked, nothing miscounted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from redlock.testing.redis_server import Cluster
from tests.integration import signal_injection
from tests.integration.shell import talking
from tests.integration.tools import eventually, is_free


@pytest.mark.parametrize("strikes", [100, pytest.param(400, marks=pytest.mark.long(ci=True))])
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_signals_at_random_moments_do_no_harm(nodes: Cluster, kind: str, strikes: int) -> None:
    with talking("-m", signal_injection.__name__, kind, str(strikes), *nodes.urls) as (_, told, said):
        after: dict[str, Any] = json.loads(said.readline())
        # The process lives on, so a lease without an owner must not be renewed for ever.
        eventually(
            lambda: is_free(nodes.servers, *signal_injection.NAMES),
            f"the end of all leases, of which none is longer than {signal_injection.TTL} s",
            every=0.05,
        )
        told.write("\n")
        told.flush()
        working = json.loads(said.readline())["working"]

    assert after["wrong"] == []
    assert after["hits"] >= strikes, "that was no storm"
    assert after["sections"] >= strikes, "hardly anybody had a lock"
    assert after["raised"] == {}, "all nodes were well, and nothing else than the strikes should have come out"
    assert working == 20, "threads hang, or could not have a lock that nobody has"

"""Exceptions out of signals (time limits, SIGTERM) may strike anywhere: nothing is left locked, nothing miscounted."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration import storm
from tests.integration.stage import ROOT
from tests.integration.tools import eventually, is_free

if TYPE_CHECKING:
    from redlock.embedded import Cluster


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_strikes_at_random_moments_leave_no_key_beyond_its_ttl_and_the_client_whole(nodes: Cluster, kind: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", storm.__name__, kind, *nodes.urls],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            after: dict[str, Any] = json.loads(process.stdout.readline())
            # The process lives on: what nobody has given back must not be renewed for ever.
            eventually(
                lambda: all(is_free(nodes.servers, name) for name in storm.NAMES),
                f"the end of all leases, of which none is longer than {storm.TTL} s",
                within=10 * storm.TTL,
            )
            process.stdin.write("\n")
            process.stdin.flush()
            working = json.loads(process.stdout.readline())["working"]
        finally:
            process.kill()

    assert after["wrong"] == []
    assert after["hits"] >= 100, "that was no storm"
    assert after["sections"] >= 100, "hardly anybody had a lock"
    assert after["raised"] == {}, "all nodes were well, and nothing else than the strikes should have come out"
    assert working == 20, "threads hang, or could not have a lock that nobody has"

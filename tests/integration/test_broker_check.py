"""`redlock doctor --broker amqp://...`: what it finds, and that it changes nothing."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from redlock import broker_check, cli
from redlock.embedded import free_port
from redlock.findings import Level
from tests.integration.tools import CANARY

if TYPE_CHECKING:
    import pytest

    from redlock.embedded import Cluster
    from redlock.findings import Finding


def found(url: str) -> dict[str, Finding]:
    """What the check finds, by its code."""
    findings = broker_check.check(url, 5.0)
    assert CANARY not in " ".join(map(str, findings))
    return {finding.code: finding for finding in findings}


def test_a_broker_that_is_down_is_unreachable() -> None:
    assert "refused" in found(f"amqp://guest:{CANARY}@127.0.0.1:{free_port()}//")["unreachable"].what


def test_a_broker_that_never_answers_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (finding,) = broker_check.check(f"amqp://127.0.0.1:{silent.getsockname()[1]}//", 0.2)
    assert (finding.code, finding.what) == ("unreachable", "no answer within 0.2 s")


def test_the_command_never_says_fine_of_a_broker_that_is_down(
    nodes: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    broker = f"amqp://guest:{CANARY}@127.0.0.1:{free_port()}//"
    assert cli.main(["doctor", "--nodes", ",".join(nodes.urls), "--broker", broker]) == Level.WARNING
    said = capsys.readouterr().out
    assert CANARY not in said
    assert "WARNING    broker 127.0.0.1:" in said

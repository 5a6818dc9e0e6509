"""Windows and macOS without such machines: all modules can be imported there, and a client locks."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from redlock import ConfigurationError, _process
from redlock._transport import address
from redlock.testing.redis_server import cluster, free_port
from tests.integration.shell import run_python

PROGRAM = Path(__file__).parent / "apps" / "other_platform.py"


def test_a_client_works_without_the_functions_of_linux(tmp_path: Path) -> None:
    with cluster(ports=[free_port() for _ in range(5)]) as nodes:
        ended = run_python(str(PROGRAM), str(tmp_path), *nodes.urls)
    for platform in ("win32", "darwin"):
        output, errors = (tmp_path / f"{name} of {platform}" for name in ("output", "errors"))
        said = errors.read_text()
        assert ended.returncode == 0, said
        assert f"status 0, run {2 if platform == 'win32' else 0}" in output.read_text(), said
        assert ("needs process groups, which this platform does not have" in said) == (platform == "win32")


def test_windows_processes_are_not_asked_by_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("os.kill ends processes there"))
    monkeypatch.setattr(sys, "platform", "win32")
    assert _process.is_alive(1)


def test_an_address_of_a_unix_socket_needs_unix_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(ConfigurationError, match="this platform has no unix sockets"):
        address.parse("unix:///run/a.sock")

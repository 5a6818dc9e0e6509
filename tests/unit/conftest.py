"""A unit test touches nothing outside its process, waits for nothing, and does not depend on who runs it."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from typing import NoReturn

import pytest


@pytest.fixture(autouse=True)
def nothing_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        pytest.fail("a unit test must not connect, start a process or sleep")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(time, "sleep", refuse)
    for name in list(os.environ):
        if name.startswith(("REDLOCK_", "COUNTER_", "SIMULATE_", "CELERY_")):
            monkeypatch.delenv(name)

"""Keys of tasks whose arguments have no fixed order: the same in every process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.integration.tools import ROOT

pytest.importorskip("django")


def keys(seed: str) -> list[str]:
    """The locks of tasks in a process with this hash seed."""
    return subprocess.run(
        [sys.executable, "-m", "tests.integration.apps.keys"],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.splitlines()


def test_keys_are_the_same_in_every_process() -> None:
    first, second = keys("1"), keys("2")

    assert first == second
    row = "00000000-0000-0000-0000-000000000007"
    assert first[5:] == [
        "a:red",
        'a:["red","x"]',
        "a:2026-01-01T00:00:00+00:00",
        "a:2026-01-01",
        "a:00000000-0000-0000-0000-000000000001",
        "a:1.5",
        f"a:{row}",
        f"a:{row}",
        f'a:["{row}"]',
        f'a:{{"row":"{row}"}}',
        f"a:{row:>40}",
        "the key 'a:{value}' of task can't be made from this call: this Account has no primary key; save it first",
    ]

"""The Makefile sets up `.venv`, also after an interrupted set-up, after an upgrade of Python, and twice at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.tools import ROOT, eventually

INTERRUPTED = "touch .venv/partial; kill -9 $$PPID"
ALONE = "mkdir .venv/busy && echo a call >> calls && rmdir .venv/busy"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile with the files that it compares, and a Python that leaves pip out, for speed."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$2" != venv ] || set -- "$@" --without-pip\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (tmp_path / "requirements").mkdir()
    for name in ("pyproject.toml", *(f"requirements/{group}.txt" for group in ("setup", "demo", "dev"))):
        (tmp_path / name).touch()
    return tmp_path


def start(checkout: Path, target: str, install: str = ":") -> subprocess.Popen[str]:
    """A make with this command in place of each installer."""
    command = ["make", target, "PYTHON=./python", "PIP=:", f"install={install}"]
    # Not the options of the `make test` that runs this test.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.Popen(command, cwd=checkout, env=environment, text=True)


def make(checkout: Path, target: str, install: str = ":") -> int:
    """The exit status of such a make."""
    with start(checkout, target, install) as process:
        return process.wait(200)


@pytest.mark.parametrize("target", [".venv/.demo", ".venv/.ready"])
def test_an_interrupted_set_up_begins_anew(checkout: Path, target: str) -> None:
    if target == ".venv/.ready":
        assert make(checkout, ".venv/.demo") == 0
    assert make(checkout, target, INTERRUPTED) != 0
    assert (checkout / ".venv" / "partial").exists()
    assert make(checkout, ".venv/.demo") == 0
    assert not (checkout / ".venv" / "partial").exists()


def test_an_environment_is_kept_unless_its_python_is_gone(checkout: Path) -> None:
    assert make(checkout, ".venv/.ready") == 0
    changed, ready = checkout / "pyproject.toml", checkout / ".venv" / ".ready"

    def is_newer() -> bool:
        changed.touch()
        return changed.stat().st_mtime_ns > ready.stat().st_mtime_ns

    eventually(is_newer, "the next step of the clock of files")
    kept, python = checkout / ".venv" / "kept", checkout / ".venv" / "bin" / "python"
    assert make(checkout, ".venv/.ready", f"touch {kept}") == 0
    for gone in (python.resolve().with_name("gone"), "/bin/false"):
        assert kept.exists()
        python.unlink()
        python.symlink_to(gone)
        assert make(checkout, ".venv/.ready") == 0
        assert not kept.exists()
        assert subprocess.run([python, "--version"], check=False).returncode == 0
        kept.touch()


def test_an_environment_of_the_developer_is_kept(checkout: Path) -> None:
    own = checkout / ".venv" / "lib" / "my_package.py"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", checkout / ".venv"], check=True)
    own.touch()
    assert make(checkout, ".venv/.ready") == 0
    assert own.exists()


def test_of_two_makes_at_once_the_second_waits(checkout: Path) -> None:
    with start(checkout, ".venv/.ready", ALONE) as one, start(checkout, ".venv/.ready", ALONE) as other:
        assert [one.wait(200), other.wait(200)] == [0, 0]
    # The packages of the demo, this package and the tools of the tests, once each.
    assert (checkout / "calls").read_text().splitlines() == ["a call"] * 3

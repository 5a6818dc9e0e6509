"""mypy and pyright see the types of the package as the lines of `tests/types/tasks.py` say, with Celery's stubs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.integration.tools import ROOT

TYPES = ROOT / "tests" / "types"
CHECKERS = {
    "mypy": [
        f"--config-file={TYPES / 'mypy.ini'}",
        f"--cache-dir={ROOT / '.mypy_cache' / 'types'}",
        f"{TYPES / 'tasks.py'}",
    ],
    "pyright": [f"--project={TYPES}", f"--pythonpath={sys.executable}"],
}


@pytest.mark.long(ci=True)
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_types_and_errors_are_the_expected_ones(checker: str) -> None:
    # Without the second, pyright asks the package index for a newer version.
    environment = os.environ | {"MYPYPATH": str(ROOT), "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    command = [sys.executable, "-m", checker, *CHECKERS[checker]]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr

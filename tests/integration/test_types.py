"""mypy and pyright see the types of the package as the lines of `tests/types/tasks.py` say, with Celery's stubs."""

from __future__ import annotations

import os
import sys

import pytest

from tests.integration.shell import run_python
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
    ended = run_python("-m", checker, *CHECKERS[checker], env=environment, timeout=None)
    assert ended.returncode == 0, ended.stdout + ended.stderr

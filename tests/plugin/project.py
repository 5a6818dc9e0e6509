"""A small project that uses the fixtures of the pytest plugin beside those of Celery and Django.

Its modules lie in this folder under names that pytest does not collect, for the tests of the plugin.
"""

from __future__ import annotations

import shutil
from pathlib import Path

FOLDER = Path(__file__).parent
TESTS = ("database", "loops", "worker")
PASSED = 11


def write(folder: Path) -> None:
    """Put the project into this folder."""
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    shutil.copy(FOLDER / "conf.py", folder / "conftest.py")
    for name in TESTS:
        shutil.copy(FOLDER / f"{name}.py", folder / f"test_{name}.py")

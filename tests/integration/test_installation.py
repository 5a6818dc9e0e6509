"""Other distributions install a package `redlock` too: a mixed folder is refused with one clear error."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from redlock import _installation
from tests.integration.tools import ROOT

if TYPE_CHECKING:
    from pathlib import Path

OURS = ROOT / "redlock"
PY = {"__init__.py": "import redis\n\nclass Redlock: ...\n", "cli.py": ""}
"""The files of redlock-py."""
NG = {
    "__init__.py": "from .client import RedlockConfig\nfrom .lock import Redlock\n",
    "algorithm.py": "",
    "client.py": "class RedlockConfig: ...\n",
    "lock.py": "class Redlock: ...\n",
    "scripts.py": "",
}
"""The files of redlock-ng."""
IMPORTS = ["redlock.celery", "redlock.fencing", "redlock.testing", "redlock.cli.main", "redlock.admin.doctor"]


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """A folder with this package as in an installation."""
    shutil.copytree(OURS, tmp_path / "redlock", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "redlock"


def install(folder: Path, theirs: dict[str, str], *, last: bool) -> None:
    """Add the files of another distribution, which replaces files of this package if it is installed last."""
    for name, text in theirs.items():
        if last or not (folder / name).exists():
            (folder / name).write_text(text)


def error(folder: Path, module: str) -> str:
    """The last line of the error of an import; empty if the import works."""
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(folder.parent)!r}); import {module}"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr.strip().rpartition("\n")[2]


@pytest.mark.parametrize("module", ["redlock", *IMPORTS])
@pytest.mark.parametrize(("theirs", "name"), [(PY, "redlock-py"), (NG, "redlock-ng")], ids=["redlock-py", "redlock-ng"])
def test_their_files_from_before_are_refused(ours: Path, theirs: dict[str, str], name: str, module: str) -> None:
    install(ours, theirs, last=False)
    told = error(ours, module)
    assert told.startswith(f"ImportError: {name} and celery-redlock both install a package named `redlock`")
    assert "pip uninstall -y redlock-py redlock-ng celery-redlock" in told


@pytest.mark.parametrize("module", IMPORTS)
@pytest.mark.parametrize(("theirs", "name"), [(PY, "redlock-py"), (NG, "redlock-ng")], ids=["redlock-py", "redlock-ng"])
def test_their_files_from_afterwards_are_refused(ours: Path, theirs: dict[str, str], name: str, module: str) -> None:
    install(ours, theirs, last=True)
    assert f"{name} and celery-redlock both install" in error(ours, module)


def test_a_foreign_package_without_known_files_is_refused(ours: Path) -> None:
    (ours / "__init__.py").write_text("")
    assert "another distribution and celery-redlock both install" in error(ours, "redlock.celery")


def test_this_package_alone_is_not_refused(ours: Path) -> None:
    assert error(ours, "redlock") == ""


def test_no_module_here_has_the_name_of_a_foreign_file() -> None:
    assert not {path.name for path in OURS.glob("*.py")} & _installation.FOREIGN_FILES.keys()

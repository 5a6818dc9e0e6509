"""Other distributions install a package `redlock` too: a mixed folder is refused with one clear error."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from redlock import _installation
from tests.integration.shell import run_python
from tests.integration.tools import ROOT

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


IMPORT_IN_FORKS = """
import os, sys
import redis
sys.path.insert(0, sys.argv[1])
for module in sys.argv[2:]:
    if (pid := os.fork()) == 0:
        try:
            __import__(module)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}".partition(chr(10))[0])
        else:
            print()
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(pid, 0)
"""


def errors(folder: Path, *modules: str) -> list[str]:
    """The first line of the error of each import in a process of its own; empty if the import works."""
    said = run_python("-I", "-c", IMPORT_IN_FORKS, str(folder.parent), *modules, check=True).stdout.split("\n")[:-1]
    assert len(said) == len(modules)
    return said


@pytest.mark.parametrize(("theirs", "name"), [(PY, "redlock-py"), (NG, "redlock-ng")], ids=["redlock-py", "redlock-ng"])
@pytest.mark.parametrize("last", [False, True], ids=["before", "afterwards"])
def test_their_files_are_refused(ours: Path, theirs: dict[str, str], name: str, *, last: bool) -> None:
    install(ours, theirs, last=last)
    # Installed last, their own `redlock` can be imported.
    for told in errors(ours, *IMPORTS, *(() if last else ("redlock",))):
        assert told.startswith(f"ImportError: {name} and celery-redlock both install a package named `redlock`")
        assert "pip uninstall -y redlock-py redlock-ng celery-redlock" in told


def test_a_foreign_package_without_known_files_is_refused(ours: Path) -> None:
    (ours / "__init__.py").write_text("")
    (told,) = errors(ours, "redlock.celery")
    assert "another distribution and celery-redlock both install" in told


def test_this_package_alone_is_not_refused(ours: Path) -> None:
    assert errors(ours, "redlock", *IMPORTS) == [""] * (1 + len(IMPORTS))


def test_no_module_here_has_the_name_of_a_foreign_file() -> None:
    assert not {path.name for path in OURS.glob("*.py")} & _installation.FOREIGN_FILES.keys()

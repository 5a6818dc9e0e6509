"""Refuses an installation that is mixed with another distribution of a package `redlock`.

Invariants:
1. Public packages import this module first, because any other module may be a foreign file.
2. The check costs a few file look-ups and imports nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

FOREIGN_FILES = {"cli.py": "redlock-py", "algorithm.py": "redlock-ng", "scripts.py": "redlock-ng"}
"""Files that only the other distributions have."""
MARK = "celery-redlock"


def check(folder: Path, mark: object) -> None:
    """Refuse a mixed installation.

    Args:
        folder: The folder of the package.
        mark: The name of the distribution that the package states, None if it states none.

    Raises:
        ImportError: Files of another distribution are in the folder.
    """
    others = sorted({name for file, name in FOREIGN_FILES.items() if (folder / file).exists()})
    if mark == MARK and not others:
        return
    found = " and ".join(others) or "another distribution"
    raise ImportError(
        f"{found} and celery-redlock both install a package named `redlock`, and their files are mixed in {folder}. "
        "Uninstall both, then install the one that you need: pip uninstall -y redlock-py redlock-ng celery-redlock"
    )


check(Path(__file__).parent, getattr(sys.modules[__package__ or "redlock"], "__distribution__", None))

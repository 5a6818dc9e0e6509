"""The program `redlock`: the command line with all its imports inside the reach of Ctrl-C.

A module beside the package, because the import of any module of the package imports most of the package first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None, app: object = None) -> int:
    """Run the command line, and return its exit status; see `redlock.cli.main`."""
    try:
        from redlock.cli import main as command  # noqa: PLC0415 - its import takes most of the start

        return command.main(arguments, app)
    except KeyboardInterrupt:
        return INTERRUPTED

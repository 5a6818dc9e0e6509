"""Starts the demo, `python -m workers.demo`, with all its imports inside the reach of Ctrl-C."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo, and return its exit status; see `workers.demo_command.main`."""
    try:
        from workers import demo_command  # noqa: PLC0415 - its imports take most of the start

        return demo_command.main(arguments)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())

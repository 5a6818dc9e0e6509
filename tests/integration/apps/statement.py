"""Executes its first argument: `python -m tests.integration.apps.statement "print(1)"`."""

import atexit
import sys

atexit.register(print, "the end")
exec(sys.argv[1])  # noqa: S102 - it is what this program is for

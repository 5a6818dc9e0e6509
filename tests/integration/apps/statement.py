"""Executes its first argument: `python -m tests.integration.apps.statement "print(1)"` is `python -c "print(1)"`."""

import sys

exec(sys.argv[1])  # noqa: S102 - it is what this program is for

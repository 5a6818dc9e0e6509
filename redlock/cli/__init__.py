"""The command `redlock`: one module per command."""

from redlock import _installation  # noqa: F401 - the check

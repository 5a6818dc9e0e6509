"""The command `redlock`: a module for each command."""

from redlock import _installation  # noqa: F401 - the check

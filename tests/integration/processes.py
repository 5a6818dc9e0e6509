"""The children, the command and the sockets of a process, from /proc.

Invariants: a process that has ended, or a descriptor that was closed meanwhile, is no error.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path


def children(pid: int | None = None) -> list[int]:
    """The child processes of a process, by default of this process, with zombies; none without /proc."""
    found: list[int] = []
    folder = f"/proc/{pid or os.getpid()}/task"
    # Without Path, because each test looks here twice.
    with contextlib.suppress(OSError):
        for task in os.listdir(folder):  # noqa: PTH208 - as above
            with contextlib.suppress(OSError), open(f"{folder}/{task}/children", "rb") as file:  # noqa: PTH123 - as above
                found += map(int, file.read().split())
    return found


def entries(folder: Path) -> list[Path]:
    """The entries of a folder; none if the folder has gone."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def command_of(pid: int) -> str:
    """The command line of a process; empty if the process has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def program_of(pid: int) -> str:
    """The name of the program that a process runs; empty if the process has ended."""
    try:
        return Path(f"/proc/{pid}/exe").readlink().name
    except OSError:
        return ""


def sockets_of(pid: int) -> list[str]:
    """The sockets that a process has open, by their numbers in `/proc/net`."""
    found = []
    for descriptor in entries(Path(f"/proc/{pid}/fd")):
        # A descriptor can be closed meanwhile.
        with contextlib.suppress(OSError):
            found += re.findall(r"socket:\[(\d+)\]", str(descriptor.readlink()))
    return found


def listening(pid: int) -> set[str]:
    """The TCP addresses at which a process listens, as /proc writes them."""
    rows = [row.split() for kind in ("tcp", "tcp6") for row in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]]
    sockets = sockets_of(pid)
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in sockets}

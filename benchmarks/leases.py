"""The cost of many renewed leases in one process. A part of this project's peer only; no other peer renews."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.peers.ours import Ours


def hold(peer: Ours, said: dict[str, Any]) -> dict[str, Any]:
    """Acquire leases on many names, keep them for some seconds, and measure the cost for this process."""
    begun = time.monotonic()
    leases = [peer.client.lease(f"{said['name']}:{number}", renew=True) for number in range(said["leases"])]
    for lease in leases:
        lease.acquire(0)
    taken = time.monotonic() - begun
    cpu, started = time.process_time(), time.monotonic()
    time.sleep(said["seconds"])
    cpu, seconds = time.process_time() - cpu, time.monotonic() - started
    lost = sum(lease.is_lost for lease in leases)
    answer = {
        "taken": taken, "cpu": cpu / seconds, "lost": lost, "memory_mb": _memory_mb(), "connections": _connections()
    }  # fmt: skip
    for lease in leases:
        if not lease.is_lost:
            lease.release()
    return answer


def _memory_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _connections() -> int:
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        # The descriptor of the folder itself is closed by now.
        with contextlib.suppress(FileNotFoundError):
            found += entry.readlink().name.startswith("socket:")
    return found

"""Lock nodes with adjustable wall clocks, by a preloaded library.

Invariants:
1. Only the wall clock changes, by which keys expire.
2. A clock keeps its setting over a restart of its server.
3. Without a C compiler, the nodes have no adjustable clocks.
"""

from __future__ import annotations

import contextlib
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from redlock.testing import redis_server

COMPILER = shutil.which("cc")


class Clock:
    """The wall clock of one server.

    Args:
        file: The file with the setting, which the library reads.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._which = file, 0
        self._ahead_us, self._since_ns, self._gain_ppm = 0, time.monotonic_ns(), 0
        self._file.write_bytes(bytes(7 * 8))

    def jump(self, seconds: float) -> None:
        """Set the clock forward by so many seconds."""
        self._set(seconds, self._gain_ppm)

    def run(self, rate: float) -> None:
        """Run the clock at this multiple of the true speed, from its current time on."""
        self._set(0.0, round((rate - 1) * 1e6))

    def _set(self, jump: float, gain_ppm: int) -> None:
        now_ns = time.monotonic_ns()
        gained = (now_ns - self._since_ns) // 1000 * self._gain_ppm // 1_000_000
        self._ahead_us += gained + round(jump * 1e6)
        self._since_ns, self._gain_ppm, self._which = now_ns, gain_ppm, 1 - self._which
        with self._file.open("r+b") as file:
            # The unused setting is written first, so that no reader sees a partial setting.
            file.seek(8 + self._which * 24)
            file.write(struct.pack("3q", self._ahead_us, self._since_ns, self._gain_ppm))
            file.flush()
            file.seek(0)
            file.write(struct.pack("q", self._which))


@contextlib.contextmanager
def clocked(directory: Path) -> Iterator[tuple[redis_server.Cluster, list[Clock]]]:
    """Five lock nodes and their clocks; no clocks where there is no C compiler."""
    if COMPILER is None:
        with redis_server.cluster() as nodes:
            yield nodes, []
        return
    library = directory / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    clocks, servers = [], []
    for place in range(5):
        file, program = directory / f"clock-{place}", directory / f"redis-server-{place}"
        command = f"WALL_CLOCK='{file}' LD_PRELOAD='{library}' exec '{redis_server.executable()}' \"$@\""
        program.write_text(f"#!/bin/sh\n{command}\n")
        program.chmod(0o700)
        clocks.append(Clock(file))
        servers.append(redis_server.Server(program=str(program)))
    with redis_server.running(servers) as nodes:
        yield nodes, clocks

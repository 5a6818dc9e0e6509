"""Lock nodes whose wall clock can be set and made to run fast, by a library that is preloaded into them.

Rules: only the wall clock is touched, which is what keys expire by; a clock keeps its setting when its server restarts;
where there is no C compiler there are nodes without such clocks.
"""

from __future__ import annotations

import contextlib
import shutil
import struct
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from redlock.testing import redis_server

if TYPE_CHECKING:
    from collections.abc import Iterator

COMPILER = shutil.which("cc")


class Clock:
    """The wall clock of one server.

    Args:
        file: Where the library reads its setting.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._which = file, 0
        self._ahead_us, self._since_ns, self._gain_ppm = 0, time.monotonic_ns(), 0
        self._file.write_bytes(bytes(7 * 8))

    def jump(self, seconds: float) -> None:
        """It is ahead by so much more, from now on."""
        self._set(seconds, self._gain_ppm)

    def run(self, rate: float) -> None:
        """It runs so many times as fast as it should, from where it is."""
        self._set(0.0, round((rate - 1) * 1e6))

    def _set(self, jump: float, gain_ppm: int) -> None:
        now_ns = time.monotonic_ns()
        gained = (now_ns - self._since_ns) // 1000 * self._gain_ppm // 1_000_000
        self._ahead_us += gained + round(jump * 1e6)
        self._since_ns, self._gain_ppm, self._which = now_ns, gain_ppm, 1 - self._which
        with self._file.open("r+b") as file:
            # First the setting that does not hold yet: nobody reads half of one.
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

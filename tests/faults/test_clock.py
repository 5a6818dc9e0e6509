"""Wall clocks of lock nodes that jump, with a preloaded library: two holders, whom the fence keeps apart."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from redlock import LockLost, Redlock, Stale, embedded
from redlock.admission import declare
from redlock.store import FencedStore
from tests.integration.tools import eventually, holders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redlock.embedded import Server

JUMP = 60.0
Clocks = tuple[list["Server"], "Callable[[int, float], None]"]


@pytest.fixture
def clocks(tmp_path: Path) -> Iterator[Clocks]:
    """Five lock nodes, and a way to set how many seconds the wall clock of each is ahead."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = tmp_path / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    offsets = [tmp_path / f"offset-{place}" for place in range(5)]
    servers = []
    for place, offset in enumerate(offsets):
        offset.write_bytes(struct.pack("q", 0))
        program = tmp_path / f"redis-server-{place}"
        command = f"WALL_CLOCK_OFFSET='{offset}' LD_PRELOAD='{library}' exec '{embedded.executable()}' \"$@\""
        program.write_text(f"#!/bin/sh\n{command}\n")
        program.chmod(0o700)
        servers.append(embedded.Server(program=str(program)))

    def ahead(place: int, seconds: float) -> None:
        with offsets[place].open("r+b") as file:
            file.write(struct.pack("q", int(seconds * 1e6)))

    try:
        for server in servers:
            server.start()
        declare([server.url for server in servers])
        yield servers, ahead
    finally:
        for server in servers:
            server.stop()


def test_clocks_of_a_quorum_that_jump_give_two_holders_of_whom_only_the_later_one_can_write(
    clocks: Clocks, broker: Server, caplog: pytest.LogCaptureFixture
) -> None:
    servers, ahead = clocks
    urls = [server.url for server in servers]
    store = FencedStore(f"{broker.url}/2")
    with (
        Redlock(urls, ttl=9) as first,
        Redlock(urls, ttl=9) as second,
        pytest.raises(LockLost),
        first.lock("hits", blocking_timeout=30) as early,
    ):
        section = store.open("hits", early)
        for place in range(3):
            ahead(place, JUMP)
        with second.lock("hits", blocking_timeout=30) as late:
            assert not early.lost, "it took too long to show anything"
            assert late.fence > early.fence
            assert store.update("hits", late, "op-2", lambda value: str(int(value or 0) + 1)).value == "1"
            with pytest.raises(Stale):
                store.write(section, "1", "op-1")
        assert store.peek("hits") == "1"

        def reported() -> bool:
            with first.lock("another", blocking_timeout=30):
                return "clock-jump" in caplog.text

        eventually(reported, "a word about a clock that has jumped")


def test_a_clock_of_one_node_that_jumps_changes_nothing(clocks: Clocks) -> None:
    servers, ahead = clocks
    urls = [server.url for server in servers]
    with Redlock(urls, ttl=9) as first, Redlock(urls, ttl=9) as second, first.lock("hits") as lease:
        ahead(2, JUMP)
        assert holders(servers, "hits") == [lease.owner] * 2 + [None] + [lease.owner] * 2, "the clock did not jump"
        assert not second.lock("hits").acquire(blocking=False)
        ahead(2, -JUMP)
        assert not second.lock("hits").acquire(blocking=False)
        lease.ensure_valid()

"""The sockets of a connection set that have data or room, with `select.poll` and without."""

from __future__ import annotations

import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest

from redlock._transport.connection import NodeConnection
from redlock._transport.readiness import READABLE, Readiness, await_socket
from redlock.testing.redis_server import die_with_parent
from tests.integration.tools import ROOT

Pair: TypeAlias = tuple[socket.socket, socket.socket]
CONNECTION: NodeConnection = object()  # type: ignore[assignment]  # opaque here


@pytest.fixture(params=["poll", "select"])
def readiness(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Readiness:
    if request.param == "select":
        monkeypatch.delattr(select, "poll")
    return Readiness()


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0)
        yield ours, theirs


def events(readiness: Readiness, wait_ms: int = 10_000) -> list[tuple[Any, bool]]:
    """For each ready socket its connection, and whether the socket has data and nothing else."""
    return [(readiness.connections[number], event == READABLE) for number, event in readiness.wait(wait_ms)]


def test_a_wait_without_sockets_ends(readiness: Readiness) -> None:
    assert list(readiness.wait(1)) == []


def test_a_socket_is_ready_when_data_has_come(readiness: Readiness, pair: Pair) -> None:
    ours, theirs = pair
    readiness.watch(ours, CONNECTION)
    assert events(readiness, 0) == []
    theirs.send(b"x")
    assert events(readiness) == [(CONNECTION, True)]
    readiness.forget(ours)
    assert events(readiness, 0) == []


def test_a_wait_may_be_longer_than_the_platform_can_wait(readiness: Readiness, pair: Pair) -> None:
    ours, theirs = pair
    readiness.watch(ours, CONNECTION)
    theirs.send(b"x")
    assert events(readiness, 10**12) == [(CONNECTION, True)]
    await_socket(ours, 10**9)


def test_a_socket_is_ready_when_the_other_end_closes(readiness: Readiness, pair: Pair) -> None:
    ours, theirs = pair
    readiness.watch(ours, CONNECTION)
    theirs.close()
    [(connection, _)] = events(readiness)
    assert connection is CONNECTION


def test_a_socket_with_room_is_ready_if_room_is_wanted(readiness: Readiness, pair: Pair) -> None:
    ours, theirs = pair
    readiness.watch(ours, CONNECTION)
    readiness.watch_room(ours, wanted=True)
    assert events(readiness) == [(CONNECTION, False)]
    theirs.send(b"x")
    assert events(readiness) == [(CONNECTION, False)], "data and room are one event"
    with pytest.raises(BlockingIOError):
        while True:
            ours.send(bytes(65_536))
    ours.recv(1)
    assert events(readiness, 0) == [], "neither data nor room"
    readiness.watch_room(ours, wanted=False)
    theirs.recv(1_000_000)
    assert events(readiness, 0) == [], "room that is not wanted"


def test_a_socket_is_forgotten_again_after_an_interruption(readiness: Readiness, pair: Pair) -> None:
    ours, _ = pair
    readiness.watch(ours, CONNECTION)
    for _ in range(2):
        readiness.forget(ours)
    ours.close()
    readiness.forget(ours)
    assert events(readiness, 0) == []


def test_one_socket_is_awaited_for_data_or_for_room(readiness: Readiness, pair: Pair) -> None:
    """Under the same `select` as the others."""
    assert readiness
    ours, theirs = pair
    await_socket(ours, 60.0, room=True)
    theirs.send(b"x")
    await_socket(ours, 60.0)
    with pytest.raises(BlockingIOError):
        while True:
            ours.send(bytes(65_536))
    began = time.monotonic()
    await_socket(ours, 0.02, room=True)
    assert time.monotonic() - began >= 0.02, "data is no room"
    ours.recv(1)
    began = time.monotonic()
    await_socket(ours, 0.0201)
    assert time.monotonic() - began >= 0.0201, "there is no data"


# Forks, because the imports take longer than the programs. The first use of the hub is in the fork.
UNDER_EVENTLET = """
import eventlet
eventlet.monkey_patch()
import os, socket, sys
from eventlet import hubs, patcher
from redlock._transport.readiness import READABLE, Readiness, await_socket

def watched(*socks):
    readiness = Readiness()
    for sock in socks:
        readiness.watch(sock, sock)
    return readiness

while program := sys.stdin.readline():
    if (pid := os.fork()) == 0:
        exec(eval(program))
        os._exit(0)
    print(patcher.original("os").waitpid(pid, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def under_eventlet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], None]]:
    """Runs a program that fails with a traceback if something is wrong."""
    errors = tmp_path_factory.mktemp("eventlet") / "errors"
    with (
        errors.open("w") as file,
        subprocess.Popen(
            [sys.executable, "-c", UNDER_EVENTLET], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=file, text=True, preexec_fn=die_with_parent,  # noqa: PLW1509 - one prctl
        ) as process,
    ):  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def run(program: str) -> None:
            stdin.write(f"{program!r}\n")
            stdin.flush()
            assert stdout.readline() == "0\n", errors.read_text()

        yield run
        stdin.close()


def test_under_eventlet_a_wait_ends_no_later_wait(under_eventlet: Callable[[str], None]) -> None:
    under_eventlet("""
pairs = [socket.socketpair() for _ in range(3)]
first, second = watched(pairs[0][0], pairs[1][0]), watched(pairs[2][0])
for _, theirs in pairs[:2]:
    theirs.send(b"x")
assert first.wait(10_000)
eventlet.spawn_after(0.1, pairs[2][1].send, b"x")
assert [number for number, _ in second.wait(10_000)] == [pairs[2][0].fileno()]
assert second.wait(0)
assert not watched(pairs[0][1]).wait(0)
""")


def test_under_eventlet_a_wait_finds_all_sockets_with_data(under_eventlet: Callable[[str], None]) -> None:
    """A node that sends without end must not be found before the others each time."""
    under_eventlet("""
pairs = [socket.socketpair() for _ in range(5)]
readiness = watched(*(ours for ours, _ in pairs))
for _, theirs in pairs:
    theirs.send(b"x")
for wait_ms in 10_000, 0:
    assert {number for number, _ in readiness.wait(wait_ms)} == {ours.fileno() for ours, _ in pairs}
""")


def test_under_eventlet_a_wait_finds_room_and_leaves_no_timer(under_eventlet: Callable[[str], None]) -> None:
    under_eventlet("""
ours, theirs = socket.socketpair()
readiness, hub = watched(ours), hubs.get_hub()
readiness.watch_room(ours, wanted=True)
((number, event),) = readiness.wait(10_000)
assert (number, event & READABLE) == (ours.fileno(), 0)
await_socket(ours, 10_000.0, room=True)
assert not [timer for _, timer in [*hub.timers, *hub.next_timers] if not timer.called]
""")


def test_under_eventlet_descriptors_used_again_end_the_wait(under_eventlet: Callable[[str], None]) -> None:
    """The error of the first comes first. The error of the second, and data, must not strike a later wait."""
    under_eventlet("""
pairs = [socket.socketpair() for _ in range(4)]
(first, _), (second, _), (other, its_peer), (last, last_peer) = pairs
readiness, numbers, opened = watched(first, second, other), {first.fileno(), second.fileno()}, []

def use_again():
    first.close()
    second.close()
    while not numbers <= {sock.fileno() for sock in opened}:
        opened.append(socket.socket())
    its_peer.send(b"x")

eventlet.spawn_after(0.1, use_again)
try:
    readiness.wait(1_000_000)
except OSError:
    pass
else:
    raise AssertionError("no error")
eventlet.spawn_after(0.1, last_peer.send, b"x")
assert [number for number, _ in watched(last).wait(10_000)] == [last.fileno()]
""")

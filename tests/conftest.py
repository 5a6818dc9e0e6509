"""Fixtures that many tests share: lock nodes, a client on them, a broker; and nothing may be left behind."""

from __future__ import annotations

import functools
import gc
import inspect
import itertools
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis.utils

from redlock import Redlock
from redlock.testing import redis_server
from tests import servers
from tests.integration import asyncio_tools, tools
from tests.integration.processes import children
from tests.integration.warm_start import fork_server
from tests.spare_nodes import SpareNodes

if TYPE_CHECKING:
    from tests.integration.worker_fixture import WorkerFixture

_PATIENCE = 60.0

# Otherwise each new connection of redis-py reads the metadata of its package, which takes most of its CPU.
redis.utils.get_lib_version = functools.cache(redis.utils.get_lib_version)

# Programs inherit ignored signals. Without this the tests of signals would fail behind `&` in a script, or under nohup.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGQUIT, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

_SPARE = SpareNodes()
_MIXED = os.environ.get("TEST_SERVERS") == "mixed"

if _MIXED:
    # Each server that a test starts, or starts again, has another version than the server before it.
    _programs, _of_this_name = itertools.cycle(servers.present().values()), redis_server.executable
    redis_server.executable = lambda name="": _of_this_name(name) if name else next(_programs)


def pytest_collection_finish() -> None:
    """Leave out of each later garbage collection what was imported: 0.2 s of CPU at each end of an event loop."""
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine function in an event loop of its own; see `asyncio_tools.run`."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted = inspect.signature(pyfuncitem.obj).parameters
    asyncio_tools.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in wanted}))
    return True


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    """Fail a test that leaves a thread or a child process; the lock's own daemon threads end by themselves."""
    threads, processes = set(threading.enumerate()), _processes()
    yield
    left = _left(threads, processes)
    if left:
        tools.comes_true(lambda: not _left(threads, processes), within=_PATIENCE, every=0.01)
        left = _left(threads, processes)
    assert not left, f"the test has left these behind: {', '.join(left)}"


def _left(threads: set[threading.Thread], processes: set[int]) -> list[str]:
    left = [
        f"thread {thread.name}"
        for thread in threading.enumerate()
        if thread not in threads and not (thread.daemon and thread.name.startswith("redlock"))
    ]
    for pid in _processes() - processes - _SPARE.pids:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        # Python's own helpers of multiprocessing live as long as the process does.
        if pid != fork_server() and "multiprocessing.resource_tracker" not in command:
            left.append(f"process {pid} {command or '(ended, and nobody waited for it)'}")
    return left


def _processes() -> set[int]:
    server = fork_server()
    return {*children(), *(children(server) if server else ())}


@pytest.fixture(scope="session")
def _spare_nodes() -> Iterator[SpareNodes]:
    yield _SPARE
    _SPARE.stop()


@pytest.fixture
def nodes(_spare_nodes: SpareNodes) -> Iterator[redis_server.Cluster]:
    """Five lock nodes, as if they were new."""
    with redis_server.cluster() if _MIXED else _spare_nodes.lent() as cluster:
        yield cluster


@pytest.fixture
def client(nodes: redis_server.Cluster) -> Iterator[Redlock]:
    with tools.client_of(nodes.urls) as redlock:
        yield redlock


@pytest.fixture
def broker() -> Iterator[redis_server.Server]:
    """The sixth Redis: broker, results and store, with an AOF."""
    with tools.sixth_redis() as server:
        yield server


@pytest.fixture
def fixture(nodes: redis_server.Cluster, broker: redis_server.Server, tmp_path: Path) -> Iterator[WorkerFixture]:
    """Nodes and broker, and a way to start workers on them, send tasks and read results."""
    from tests.integration.worker_fixture import WorkerFixture  # noqa: PLC0415 - Celery takes its time, and few tests need it

    with WorkerFixture(nodes, broker, tmp_path) as fixture:
        yield fixture

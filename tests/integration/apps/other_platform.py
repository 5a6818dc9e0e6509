"""Acts as a client on platforms without the features of Linux: `other_platform.py FOLDER URL...`.

The standard library and the dependencies are imported first. They have their own code for each platform. Each platform
is a fork, and writes its output and its errors to files in the folder.
"""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing.util  # noqa: F401 - imported before the platform changes
import os
import pkgutil
import select
import selectors
import signal
import socket
import ssl  # noqa: F401
import sys
from types import ModuleType
from typing import cast

import kombu.transport.redis  # noqa: F401

# Of the modules that `redlock.fencing` and `redlock.celery` name.
for _optional in ("django.db", "flower.app", "psycopg", "redis", "sqlalchemy", "tornado.web"):
    importlib.import_module(_optional)

WINDOWS_LACKS = {
    os: (
        "O_NOFOLLOW O_NONBLOCK WUNTRACED fork forkpty getegid geteuid getgid getpgrp getuid killpg register_at_fork "
        "setsid tcgetpgrp tcsetpgrp waitpid"
    ),
    select: "EPOLLIN POLLIN POLLOUT epoll poll",
    signal: "pthread_kill pthread_sigmask sigwait setitimer",
    socket: "AF_UNIX",
}
WINDOWS_SIGNALS = {"SIGINT", "SIGILL", "SIGFPE", "SIGSEGV", "SIGTERM", "SIGABRT"}
LINUX_ONLY = {os: "sched_getaffinity memfd_create pipe2", socket: "SO_PEERCRED"}
POSIX_MODULES = ("fcntl", "grp", "posix_ipc", "pty", "pwd", "resource", "termios", "tty")


class NoSuchProcessFile(FileNotFoundError):
    """Nothing on these platforms is below /proc."""


def forbid(event: str, arguments: tuple[object, ...]) -> None:
    """Refuse calls that would be wrong on this platform."""
    if event == "open" and str(arguments[0]).startswith("/proc"):
        raise NoSuchProcessFile(arguments[0])
    if sys.platform == "win32" and event == "os.kill":
        # On Windows every signal ends the process.
        raise AssertionError("os.kill on Windows")


def become(platform: str) -> None:
    """Remove the functions that this platform does not have."""
    lacks: dict[ModuleType, str] = dict(LINUX_ONLY)
    if platform == "win32":
        lacks |= WINDOWS_LACKS
        for name in POSIX_MODULES:
            sys.modules[name] = cast("ModuleType", None)
        for number in [number for number in signal.Signals if number.name not in WINDOWS_SIGNALS]:
            delattr(signal, number.name)
    for module, names in lacks.items():
        for name in names.split():
            if hasattr(module, name):
                delattr(module, name)
    sys.platform = platform
    sys.addaudithook(forbid)


async def lock_in_a_loop(urls: tuple[str, ...]) -> None:
    from redlock import asyncio as redlock_asyncio  # noqa: PLC0415 - on the other platform

    async with redlock_asyncio.Redlock(urls, node_timeout=2.0) as client:
        async with client.lock("c") as lease:
            assert lease.is_held
        assert await client.lock("c").acquire(blocking_timeout=30)


def main(platform: str, *urls: str) -> None:
    # Before the change, since the loop needs a pair of sockets for itself. The default loop of Windows has no
    # `add_reader`, so docs/asyncio.md names this one; there it uses `select.select`.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    become(platform)
    import redlock  # noqa: PLC0415 - on the other platform

    names = [found.name for found in pkgutil.walk_packages(redlock.__path__, "redlock.")]
    left_out = ("redlock.__main__", "redlock.fencing.django.models", "redlock.fencing.django.migrations")
    for name in names:
        if not name.startswith(left_out):
            importlib.import_module(name)

    from redlock._process import is_alive  # noqa: PLC0415
    from redlock.cli.main import main as command  # noqa: PLC0415

    with redlock.Redlock(urls, node_timeout=2.0) as client:
        first, second = client.lock("a", blocking=False), client.lock("a", blocking=False)
        with first as lease:
            assert lease.is_held
            assert not second.acquire(blocking=False)
        assert client.lock("b").acquire(blocking_timeout=30)
    loop.run_until_complete(lock_in_a_loop(urls))
    loop.close()
    assert is_alive(os.getpid())
    status = command(["status", "--nodes", ",".join(urls), "--timeout", "5"])
    run = command(["run", "--nodes", ",".join(urls), "a", "--", sys.executable, "-c", ""])
    sys.stdout.write(f"imported {len(names)} modules, status {status}, run {run}\n")


def on_each(folder: str, *urls: str) -> None:
    """Run on each platform, in a fork; the exit status is 1 if a fork fails."""
    for platform in ("win32", "darwin"):
        if not os.fork():
            for descriptor, name in ((1, "output"), (2, "errors")):
                os.dup2(os.open(f"{folder}/{name} of {platform}", os.O_CREAT | os.O_WRONLY), descriptor)
            main(platform, *urls)
            return
        if os.wait()[1]:
            sys.exit(1)


if __name__ == "__main__":
    on_each(*sys.argv[1:])

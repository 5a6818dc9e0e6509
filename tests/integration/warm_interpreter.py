"""An interpreter that has imported packages early, and runs each program in a fork.

`warm_commands.py` starts this file, also with the Python of another environment: the standard library suffices.

Invariants:
1. `python warm_interpreter.py DESCRIPTOR NAMES` listens at this descriptor, and imports these modules.
2. The connection of a test run sends the length 0, and gets a byte. After the end of the last such connection, the
   interpreter ends, and the forks with the interpreter.
3. The connection of a program sends the length of the request and three descriptors, then the request, then a byte for
   each signal. The answer is the status of the ended program, as from `waitpid`.
4. The end of a connection kills the program.
5. A fork behaves as `python` with these arguments does, up to the end.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import marshal
import os
import runpy
import selectors
import signal
import socket
import struct
import sys
import threading
import types
from pathlib import Path

_PR_SET_PDEATHSIG = 1


class Server:
    """Forks for each request."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._ended, self._wakeup = socket.socketpair()
        self._runs: set[socket.socket] = set()
        self._programs: dict[socket.socket, tuple[int, bool]] = {}
        self._selector = selectors.DefaultSelector()

    def serve(self) -> list[str]:
        """Serve until the end. Returns the arguments of a program, in its fork only."""
        for one in (self._ended, self._wakeup):
            one.settimeout(0)
        signal.set_wakeup_fd(self._wakeup.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for one in (self._listener, self._ended):
            self._selector.register(one, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                sock: socket.socket = key.fileobj  # type: ignore[assignment]  # no other is registered
                if sock is self._listener:
                    arguments = self._admit(sock.accept()[0])
                    if arguments is not None:
                        return arguments
                elif sock is self._ended:
                    sock.recv(4096)
                elif sock in self._runs:
                    self._run_ends(sock)
                elif sock in self._programs:
                    self._pass_on(sock)
            self._answer()

    def _admit(self, connection: socket.socket) -> list[str] | None:
        """Take a request; the arguments in the fork."""
        head, descriptors, _, _ = socket.recv_fds(connection, 8, 3)
        (length,) = struct.unpack("=q", head)
        if length == 0:
            self._runs.add(connection)
            connection.sendall(b"\0")
        else:
            with connection.makefile("rb") as file:
                arguments, python, environment, folder, group = marshal.loads(file.read(length))  # noqa: S302 - a test wrote it
            if (pid := os.fork()) == 0:
                self._close()
                connection.close()
                become(descriptors, python, environment, folder)
                return list(arguments)
            for descriptor in descriptors:
                os.close(descriptor)
            self._programs[connection] = pid, group
        self._selector.register(connection, selectors.EVENT_READ)
        return None

    def _close(self) -> None:
        """In a fork: leave everything to the server."""
        signal.set_wakeup_fd(-1)
        self._selector.close()
        for sock in (self._listener, self._ended, self._wakeup, *self._runs, *self._programs):
            sock.close()

    def _run_ends(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        self._runs.remove(connection)
        if not self._runs:
            place = Path(self._listener.getsockname())
            place.unlink()
            place.parent.rmdir()
            # The kernel kills the forks.
            os._exit(0)

    def _pass_on(self, connection: socket.socket) -> None:
        """Send a program the signals of its connection. Before its `waitpid`, the process id is still its own."""
        pid, group = self._programs[connection]
        numbers = b""
        with contextlib.suppress(ConnectionError):
            numbers = connection.recv(64)
        for number in numbers:
            os.kill(pid, number)
        if not numbers:
            self._selector.unregister(connection)
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(pid, signal.SIGKILL)

    def _answer(self) -> None:
        for connection, (pid, _) in [*self._programs.items()]:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                del self._programs[connection]
                with contextlib.suppress(KeyError):
                    self._selector.unregister(connection)
                with connection, contextlib.suppress(OSError):
                    connection.sendall(struct.pack("=i", status))


def become(descriptors: list[int], python: str, environment: dict[str, str], folder: str) -> None:
    """In a fork: take over the descriptors, the environment and the folder of a new process."""
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for name, number, descriptor in zip(("stdin", "stdout", "stderr"), range(3), descriptors, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
        before = getattr(sys, name)
        stream = open(  # noqa: SIM115 - until the end
            number,
            before.mode,
            buffering=1 if name == "stderr" else -1,
            encoding=before.encoding,
            errors=before.errors,
            closefd=False,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    if environment.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sys.executable = python
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)


def run(arguments: list[str]) -> None:
    """Run a program as `python` does with these arguments."""
    first, *rest = arguments
    place = "" if first == "-c" else str(Path.cwd()) if first == "-m" else str(Path(first).resolve().parent)
    sys.path[:0] = [place, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    vars(main)["__builtins__"] = __builtins__
    if first == "-m":
        name, *sys.argv[1:] = rest
        runpy._run_module_as_main(name)  # type: ignore[attr-defined]
    elif first == "-c":
        text, *others = rest
        sys.argv[:] = ["-c", *others]
        exec(compile(text, "<string>", "exec"), vars(main))  # noqa: S102 - as `python -c` does
    else:
        sys.argv[:] = arguments
        main.__file__ = first
        exec(compile(Path(first).read_bytes(), first, "exec"), vars(main))  # noqa: S102 - as `python FILE` does


def end(status: int) -> None:
    """End as an interpreter does, which would take its time to clear all early modules too."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status & 0xFF)


if __name__ == "__main__":
    if os.fork():
        # The server outlives its starter.
        os._exit(0)
    # The folder of this file.
    del sys.path[0]
    for early in sys.argv[2].split(","):
        # Not every environment has every package.
        with contextlib.suppress(ImportError):
            importlib.import_module(early)
    gc.collect()
    gc.freeze()
    program = Server(socket.socket(fileno=int(sys.argv[1]))).serve()
    try:
        run(program)
    except SystemExit as exit_:
        # The interpreter prints other codes.
        if not isinstance(exit_.code or 0, int):
            raise
        end(int(exit_.code or 0))
    else:
        end(0)

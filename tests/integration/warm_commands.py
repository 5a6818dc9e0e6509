"""Commands for other programs to start, `python`, `celery` and `redlock`, which run as forks of a warm interpreter.

Imports of Celery and Django take most of the CPU of a short program. `warm_start.py` is for programs that a test starts
itself. A shell or the code under test can start these commands too, with the Python of any environment.

Invariants:
1. A fork imports this project itself: only packages of others are imported early.
2. A command passes signals on to its fork, and ends as the fork ends. The end of a killed command kills the fork.
3. A new interpreter runs what a fork cannot do in the same way: options and environment variables of Python, and
   pools that replace parts of the standard library.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SERVER = Path(__file__).with_name("warm_interpreter.py")
_EARLY = [
    "celery.apps.worker",
    "celery.backends.redis",
    "celery.beat",
    "celery.bin.base",
    "celery.bin.worker",
    "celery.concurrency.prefork",
    "celery.worker.consumer",
    "concurrent_log_handler",
    "django.core.handlers.wsgi",
    "django.core.management",
    "django.core.servers.basehttp",
    "django.db.backends.sqlite3.base",
    "django.db.models",
    "fastapi",
    "flower.command",
    "kombu.transport.redis",
    "pytest",
    "redis.asyncio",
    "sqlalchemy.orm",
    "uvicorn",
]
_SCRIPTS = ("celery", "django-admin", "redlock")
# Few imports, because each command runs this.
_COMMAND = """#!{python} -IS
import marshal, os, signal, socket, struct, sys
arguments = [*{before!r}, *sys.argv[1:]]
options = not arguments or arguments[0][0] == "-" and arguments[0] not in ("-c", "-m")
settings = {{(name, value) for name, value in os.environ.items() if name[:6] == "PYTHON" or name[:3] == "LD_"}}
others = [name for name, _ in settings - {settings!r} if name != "PYTHONPATH"]
if options or others or any(pool in argument for argument in arguments for pool in ("gevent", "eventlet")):
    os.execv({python!r}, [{python!r}, *arguments])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
request = marshal.dumps((arguments, {executable!r}, dict(os.environ), os.getcwd(), {group!r}))
socket.send_fds(server, [struct.pack("=q", len(request))], [0, 1, 2])
server.sendall(request)
for number in signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2:
    # A shell without job control ignores SIGINT for its programs in the background.
    if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, lambda number, _: server.send(bytes([number])))
answer = server.recv(4)
status = os.waitstatus_to_exitcode(struct.unpack("=i", answer)[0]) if answer else 1
if status < 0:
    if -status != signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
"""


class WarmInterpreter:
    """Writes commands that are forks of one warm interpreter."""

    def __init__(self, python: str, address: str) -> None:
        self._python = python
        self._address = address

    def commands(self, folder: Path, *, nested: bool = False) -> Path:
        """A new folder for `PATH`.

        A killed command also kills the children of its fork. With `nested`, the children that a fork starts with its
        own Python are commands too, and it is up to the program that they end.
        """
        folder.mkdir()
        settings = {(name, value) for name, value in os.environ.items() if name.startswith(("PYTHON", "LD_"))}
        scripts = {name: [str(Path(self._python).with_name(name))] for name in _SCRIPTS}
        for name, before in {"python": [], **scripts}.items():
            file = folder / name
            file.write_text(
                _COMMAND.format(
                    python=self._python,
                    before=before,
                    settings=settings,
                    address=self._address,
                    executable=str(folder / "python") if nested else self._python,
                    group=not nested,
                )
            )
            file.chmod(0o755)
        return folder


@contextlib.contextmanager
def warm_interpreter(python: str, place: Path) -> Iterator[WarmInterpreter]:
    """A warm process of this Python, which all that name the same folder share."""
    told = place / "address"
    with contextlib.ExitStack() as stack:
        with (place / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                stack.enter_context(_joined(told.read_text()))
            except OSError:
                told.write_text(_start(python))
                stack.enter_context(_joined(told.read_text()))
            address = told.read_text()
        yield WarmInterpreter(python, address)


@contextlib.contextmanager
def _joined(address: str) -> Iterator[None]:
    """As long as the block runs, the warm interpreter lives; an error if none lives there."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        connection.sendall(struct.pack("=q", 0))
        if not connection.recv(1):
            raise ConnectionResetError
        yield


def _start(python: str) -> str:
    """Start a warm interpreter; its address."""
    # The path of a unix socket is short.
    address = f"{tempfile.mkdtemp(prefix='warm-')}/socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(100)
        subprocess.run(
            [python, str(_SERVER), str(listener.fileno()), ",".join(_EARLY)],
            cwd="/",
            env={name: value for name, value in os.environ.items() if not name.startswith(("REDLOCK_", "PYTHON"))},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            start_new_session=True,
            check=True,
        )
    return address

"""Any program under a lock: `redlock run RESOURCE -- command ...`.

Rules of this file:
1. The program starts when the lock is held, in a process group of its own, and that group is ended before the lease
   is over: SIGTERM while there is still time for a grace, SIGKILL when there is none left.
2. It never outlives us: signals that we get it gets, and where we are killed, its process group is killed too.
3. Nothing that can't be written, a log or a message, stops it or us.
4. A program under a lock is not suspended from the terminal: its lease would run out meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from redlock import _files
from redlock._escaping import escape
from redlock._log import LineFormatter, logger
from redlock._transport import address
from redlock.cli.child_process import Program, Stopped
from redlock.errors import LockContended, LockLost, QuorumUnavailable, RedlockError
from redlock.settings import SECRETS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from redlock.client import Redlock
    from redlock.lease import Lease
    from redlock.settings import Settings

# As in sysexits.h, and as shells do.
NO_QUORUM, LOST, CANNOT_CREATE, CONTENDED, CANNOT_RUN, NOT_FOUND = 69, 70, 73, 75, 126, 127

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_LOOK_SECONDS = 1.0
"""No wait is longer: a machine that slept must look at its lease soon."""
_EMPTY_SECONDS = 0.02
_MARGIN_SECONDS = 0.05


def say(text: str) -> None:
    """A line on stderr, if it can be written."""
    with contextlib.suppress(OSError):
        os.write(2, f"redlock: {escape(text)}\n".encode(errors="replace"))


class _Log(logging.Handler):
    """Lines at the end of a file, for as long as they can be written."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self._file = _files.open_to_append(path)
        self._failed = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write it; that this fails is said once."""
        try:
            os.write(self._file, f"{self.format(record)}\n".encode(errors="replace"))
        except OSError as error:
            if not self._failed:
                self._failed = True
                say(f"log file {self._path!r}: {(error.strerror or str(error)).lower()}; going on without it")


def log_to(path: str) -> None:
    """Let the lock's events go to a file, opened now.

    Raises:
        OSError: It can't be opened.
    """
    handler = _Log(path)
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)-7s %(process)d %(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)


def environment(settings: Settings, *, credentials: bool) -> dict[str, str]:
    """The environment of a program: the same nodes under the same terms.

    Args:
        settings: The lock's.
        credentials: Whether the addresses of the nodes keep their users and passwords.
    """
    nodes = [node if credentials else address.without_credentials(node) for node in settings.addresses]
    # What came from an option or from an app must not be a default in the program, which then would lock elsewhere.
    fingerprint = {"NODES": ",".join(nodes), "PREFIX": settings.prefix, "MAX_TTL": f"{settings.max_ttl}"}
    gone = {*SECRETS, "REDLOCK_PREFIX_FILE", "REDLOCK_MAX_TTL_FILE"}
    kept = {name: value for name, value in os.environ.items() if name not in gone}
    return kept | {f"REDLOCK_{name}": value for name, value in fingerprint.items()}


def run(
    client: Redlock,
    resource: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    wait: float | None,
    grace: float,
) -> int:
    """Run a program while the lock is held.

    Args:
        client: Its TTL is the lease's.
        resource: What to lock.
        command: The program and its arguments.
        environment: The program's environment, to which the resource and the fencing token are added.
        wait: Seconds to wait for the lock, 0 or more; None for as long as it takes.
        grace: Seconds between SIGTERM and SIGKILL where the lock is being lost, 0 to half of the TTL.

    Returns:
        The program's exit status, 128 + n if signal n ended it or us; else one of the constants above.

    Raises:
        ConfigurationError: Settings or nodes are no good.
    """
    program = Program(command)
    held = threading.Event()
    lease = client.lease(resource, owner_label=_owner_label(command), renew=True, on_lost=lambda _: held.set())
    with _signals_go_to(program):
        try:
            lease.acquire(None if wait is None else int(wait * 1000))
            return _run(program, lease, environment, grace, held)
        except Stopped as stopped:
            return 128 + stopped.number
        except LockContended as error:
            say(str(error))
            return CONTENDED
        except QuorumUnavailable as error:
            say(str(error))
            return NO_QUORUM
        finally:
            if lease.is_held:
                with contextlib.suppress(RedlockError):
                    lease.release()


def _run(program: Program, lease: Lease, environment: Mapping[str, str], grace: float, changed: threading.Event) -> int:
    told = {"REDLOCK_RESOURCE": lease.resource, "REDLOCK_FENCE": str(lease.fence)}
    try:
        program.start({**environment, **told})
    except OSError as error:
        say(f"{program.command[0]}: {(error.strerror or str(error)).lower()}")
        return NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_RUN
    guard = LeaseWatchdog(program, lease, grace, changed)
    status = program.wait()
    lost = guard.end()
    program.stop_watching()
    if lost:
        return LOST
    try:
        lease.close()
    except LockLost as error:
        say(f"{error}, while the program ran; it ended with status {status}")
        return LOST
    return status


def _owner_label(command: Sequence[str]) -> str:
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return f"{Path(command[0]).name}[{os.getpid()}]@{socket.gethostname()} since {since}"


@contextlib.contextmanager
def _signals_go_to(program: Program) -> Iterator[None]:
    before = {number: signal.signal(number, program.receive) for number in _FORWARDED}
    # A function, not SIG_IGN: what is ignored stays so in the program.
    before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, lambda *_: None)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class LeaseWatchdog:
    """Ends a program before its lease is over, in a thread of its own.

    Args:
        program: It has been started.
        lease: It is held, and renewed.
        grace: Seconds between SIGTERM and SIGKILL.
        changed: Set when the lease is known to be lost.
    """

    def __init__(self, program: Program, lease: Lease, grace: float, changed: threading.Event) -> None:
        self._program, self._lease, self._grace, self._changed = program, lease, grace, changed
        self._over = False
        self._struck = False
        self._thread = threading.Thread(target=self._watch, name="redlock-guard", daemon=True)
        self._thread.start()

    def end(self) -> bool:
        """The program has ended: stop watching; whether it was ended for the lock's sake."""
        self._over = True
        self._changed.set()
        self._thread.join()
        return self._struck

    def _watch(self) -> None:
        while not self._over:
            left = self._lease.remaining() - self._grace
            if left <= 0:
                self._strike()
                return
            self._changed.wait(min(left, _LOOK_SECONDS))

    def _strike(self) -> None:
        self._struck = True
        left = self._lease.remaining()
        until = time.monotonic() + (max(0.0, left - _MARGIN_SECONDS) if left else self._grace)
        say(f"{self._why()}: ending {self._program.command[0]}")
        self._program.signal(signal.SIGTERM)
        self._program.signal(signal.SIGCONT)
        while not self._program.is_gone():
            if time.monotonic() >= until:
                self._program.signal(signal.SIGKILL)
                return
            time.sleep(_EMPTY_SECONDS)

    def _why(self) -> str:
        try:
            self._lease.ensure_valid()
        except LockLost as error:
            return str(error)
        return f"lock {self._lease.resource!r} could not be renewed, and is nearly over"

"""Runs a program while a lock is held: `redlock run RESOURCE -- command ...`.

Invariants:
1. The program starts in its own process group after the lock is acquired.
2. The group ends before the lease: SIGTERM early enough for a grace, SIGKILL after the grace.
3. The program never outlives this process. Signals are passed on, and if this process is killed, the group is killed.
   A signal that the caller ignored stays ignored.
4. A log or a message that can't be written stops neither the program nor this process.
5. The terminal can't suspend the program, because its lease would expire in the meantime.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redlock import _threads
from redlock._process import signals
from redlock._transport import address
from redlock.cli.child_process import Program, Stopped
from redlock.cli.output import reason_of, say
from redlock.errors import ConfigurationError, LockContended, LockLost, NoThread, QuorumUnavailable, RedlockError
from redlock.settings import SECRETS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from redlock.client import Redlock
    from redlock.lease import Lease
    from redlock.settings import Settings

# The values of sysexits.h, and 126 and 127 as in shells.
NO_QUORUM, LOST, CANNOT_CREATE, CONTENDED, CANNOT_RUN, NOT_FOUND = 69, 70, 73, 75, 126, 127

_FORWARDED = signals("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
_CHECK_SECONDS = 1.0
"""The longest wait between two checks of the lease: a machine that slept must check its lease soon."""
_POLL_SECONDS = 0.02
_MARGIN_SECONDS = 0.05


def environment(settings: Settings, *, credentials: bool) -> dict[str, str]:
    """Return the environment of the program, with the same settings of its locks.

    The addresses of the nodes keep their users and passwords only with `credentials`.

    Raises:
        ConfigurationError: A value has a character that the locale lacks.
    """
    nodes = [node if credentials else address.without_credentials(node) for node in settings.addresses]
    # A setting from an option or an app must be set here. With the default, the program would lock on other nodes, or
    # for longer than `max_ttl`.
    shared = {"NODES": ",".join(nodes)}
    shared |= {name.upper(): f"{getattr(settings, name)}" for name in ("ttl", "max_ttl", "prefix", "node_timeout")}
    passed = {f"REDLOCK_{name}": value for name, value in shared.items()}
    for name, value in passed.items():
        if not _is_in_locale(value):
            fix = "choose a locale with UTF-8, such as LC_ALL=C.UTF-8"
            raise ConfigurationError(f"the program's environment can't hold the value of {name}; {fix}")
    removed = {*SECRETS, *passed, *(f"{name}_FILE" for name in passed)}
    # A setting may have its name in small letters after the prefix: `REDLOCK_password`.
    kept = {name: value for name, value in os.environ.items() if name.upper() not in removed}
    return kept | passed


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
        client: The client; the lease has its TTL.
        resource: The resource to lock.
        command: The program and its arguments.
        environment: The program's environment, to which the resource and the fencing token are added.
        wait: Seconds to wait for the lock, 0 or more; None waits without a limit.
        grace: Seconds between SIGTERM and SIGKILL if the lock is about to be lost, 0 to half of the TTL.

    Returns:
        The program's exit status, 128 + n if signal n ended the program or this process, or a constant of this module.

    Raises:
        ConfigurationError: Settings or nodes are invalid, or the platform has no process groups.
    """
    if not hasattr(os, "killpg"):
        raise ConfigurationError("`redlock run` needs process groups, which this platform does not have")
    program = Program(command)
    lost = threading.Event()
    lease = client.lease(resource, owner_label=_owner_label(command), renew=True, on_lost=lambda _: lost.set())
    with _signals_go_to(program):
        try:
            lease.acquire(None if wait is None else int(wait * 1000))
            return _run(program, lease, environment, grace, lost)
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


def _run(program: Program, lease: Lease, environment: Mapping[str, str], grace: float, lost: threading.Event) -> int:
    try:
        program.start({**environment, "REDLOCK_RESOURCE": lease.resource, "REDLOCK_FENCE": str(lease.fence)})
    except OSError as error:
        say(f"{program.command[0]}: {reason_of(error)}")
        return NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_RUN
    try:
        watchdog = LeaseWatchdog(program, lease, grace, lost)
    except NoThread as error:
        # Nothing would end the program before the end of its lease.
        program.signal(signal.SIGKILL)
        program.wait()
        program.stop_watching()
        say(f"{program.command[0]}: {error}")
        return CANNOT_RUN
    status = program.wait()
    ended_by_watchdog = watchdog.stop()
    program.stop_watching()
    if ended_by_watchdog:
        return LOST
    try:
        lease.close()
    except LockLost as error:
        say(f"{error}, while the program ran; it ended with status {status}")
        return LOST
    return status


def _is_in_locale(value: str) -> bool:
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return True


def _owner_label(command: Sequence[str]) -> str:
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return f"{Path(command[0]).name}[{os.getpid()}]@{socket.gethostname()} since {since}"


@contextlib.contextmanager
def _signals_go_to(program: Program) -> Iterator[None]:
    handlers: dict[signal.Signals, Any] = dict.fromkeys(_FORWARDED, program.receive)
    # SIGTSTP has a function, because the program would inherit SIG_IGN.
    handlers[signal.SIGTSTP] = lambda *_: None
    # A caller such as nohup ignores a signal for redlock and, by inheritance, for the program.
    handlers = {number: handler for number, handler in handlers.items() if signal.getsignal(number) != signal.SIG_IGN}
    # While SIGCHLD is ignored, the system forgets the status of the program.
    handlers[signal.SIGCHLD] = signal.SIG_DFL
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class LeaseWatchdog:
    """Ends a program before the end of its lease, in a thread.

    Args:
        program: The started program.
        lease: The lease, which is held and renewed.
        grace: Seconds between SIGTERM and SIGKILL.
        lost: An event that is set when the lease is lost.
    """

    def __init__(self, program: Program, lease: Lease, grace: float, lost: threading.Event) -> None:
        self._program, self._lease, self._grace, self._changed = program, lease, grace, lost
        self._stopped = False
        self._ended_program = False
        self._thread = _threads.start(self._watch, "redlock-watchdog")

    def stop(self) -> bool:
        """Stop after the program's end, and return whether this watchdog has ended the program."""
        self._stopped = True
        self._changed.set()
        self._thread.join()
        return self._ended_program

    def _watch(self) -> None:
        while not self._stopped:
            left = self._lease.remaining() - self._grace
            if left <= 0:
                self._end_program()
                return
            self._changed.wait(min(left, _CHECK_SECONDS))

    def _end_program(self) -> None:
        self._ended_program = True
        left = self._lease.remaining()
        until = time.monotonic() + (max(0.0, left - _MARGIN_SECONDS) if left else self._grace)
        say(f"{self._reason()}: ending {self._program.command[0]}")
        self._program.signal(signal.SIGTERM)
        self._program.signal(signal.SIGCONT)
        while not self._program.is_gone():
            if time.monotonic() >= until:
                self._program.signal(signal.SIGKILL)
                return
            time.sleep(_POLL_SECONDS)

    def _reason(self) -> str:
        try:
            self._lease.ensure_valid()
        except LockLost as error:
            return str(error)
        return f"lock {self._lease.resource!r} could not be renewed, and its lease is nearly over"

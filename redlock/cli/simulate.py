"""Simulates clients that compete for one lock on real nodes.

Invariants:
1. Each client is a process, and the clients share only the nodes.
2. A client prints one line per step. The log file has every event as well.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import random
import signal
import time
from typing import TYPE_CHECKING

from redlock import _files, _log, _validation
from redlock._escaping import escape
from redlock._masking import quoted
from redlock.cli.output import close_streams, log_to, open_streams, reason_of, show
from redlock.errors import ConfigurationError, LockContended, QuorumUnavailable
from redlock.testing import redis_server as servers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redlock.settings import Settings


@dataclasses.dataclass(frozen=True)
class Plan:
    """The actions of the clients, with times in seconds."""

    delays: str = "0,1,3"
    hold: float = 2.0
    retries: float = 3.0
    retry_delay: float = 0.2
    resource: str = "shared-resource"
    log_file: str = "logger.log"

    def starts(self) -> list[float]:
        """Return the delay of each client.

        Raises:
            ConfigurationError: A value of the plan is invalid.
        """
        _validation.number("hold", self.hold, zero=True)
        _validation.number("retry-delay", self.retry_delay, zero=True)
        _validation.count("retries", int(self.retries) if float(self.retries).is_integer() else self.retries)
        _validation.resource(self.resource)
        try:
            starts = [float(part) for part in self.delays.split(",")]
        except ValueError:
            starts = []
        if not starts:
            raise ConfigurationError(f"delays is {quoted(self.delays)}; it must be numbers with commas, such as 0,1,3")
        return [_validation.number("delays", start, zero=True) for start in starts]


def run(plan: Plan, lock: Settings, *, embedded: bool) -> int:
    """Run the clients until all have ended.

    Returns:
        The largest exit status of a client; 0 also for a client that did not get the lock.

    Raises:
        ConfigurationError: The plan or a setting is invalid, or there is no redis-server for `embedded`.
        QuorumUnavailable: Too few nodes answer at the start.
    """
    starts = plan.starts()
    try:
        os.close(_files.open_to_append(plan.log_file))
    except OSError as error:
        raise ConfigurationError(
            f"log file {plan.log_file!r}: {reason_of(error)}; name another with --log-file"
        ) from None
    with contextlib.ExitStack() as stack:
        if embedded:
            lock = dataclasses.replace(
                lock,
                nodes=",".join(stack.enter_context(servers.cluster(prefix=lock.prefix)).urls),
                username="",
                password="",
            )
        _wait_for_nodes(lock)
        context = multiprocessing.get_context("spawn")
        clients = [
            context.Process(target=_client, args=(number, start, plan, lock)) for number, start in enumerate(starts)
        ]
        try:
            with _without_interrupts():
                for process in clients:
                    process.start()
            for process in clients:
                process.join()
        finally:
            for process in filter(multiprocessing.Process.is_alive, clients):
                process.terminate()
                process.join()
    return max(abs(process.exitcode or 0) for process in clients)


def _wait_for_nodes(lock: Settings) -> None:
    """Wait until the nodes vote: brand-new nodes abstain until `max_ttl` has passed."""
    with lock.client() as client:
        probe = client.lease("redlock simulate", owner_label="simulate")
        try:
            probe.acquire(acquire_timeout_ms=0)
        except QuorumUnavailable as error:
            if "abstains" not in str(error):
                raise
            show(escape(f"Waiting for the nodes: {error}"))
            probe.acquire(acquire_timeout_ms=None)
        probe.release()


def _client(number: int, start: float, plan: Plan, lock: Settings) -> None:
    name = f"Client-{number}"
    open_streams()
    try:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        log_to(plan.log_file)
        time.sleep(start)
        _compete(name, plan, lock)
    except KeyboardInterrupt:
        pass
    finally:
        close_streams()


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back: a process that starts meanwhile would print a traceback of its imports."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker  # noqa: PLC0415 - only `simulate` needs these modules

    # The start of this helper lets signals in again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _compete(name: str, plan: Plan, lock: Settings) -> None:
    with lock.client() as client:
        _say(name, "Attempting to acquire lock...")
        lease = client.lease(plan.resource, owner_label=name)
        for left in range(int(plan.retries), -1, -1):
            try:
                lease.acquire(acquire_timeout_ms=0)
                break
            except (LockContended, QuorumUnavailable) as error:
                if not left:
                    reason = f": {error}" if isinstance(error, QuorumUnavailable) else "."
                    _say(name, f"Failed to acquire lock{reason}")
                    return
            time.sleep(plan.retry_delay * random.uniform(0.5, 2))  # noqa: S311 - jitter, not a secret
        try:
            _say(name, f"Lock acquired! Lock ID: {lease.owner[:8]}...")
            time.sleep(plan.hold)
        finally:
            outcome = lease.release()
        _say(name, f"Lock {outcome.value}!")


def _say(name: str, step: str) -> None:
    show(escape(f"{name}: {step}"))
    _log.info("simulated", client=name, step=step)

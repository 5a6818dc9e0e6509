"""Runs the doctor before a worker takes tasks.

Invariants:
1. On an unsafe finding the worker does not start, and logs the reason in one line.
2. Without a quorum of nodes the worker waits, and logs each reason once. Lesser findings are warnings.
3. No connection stays open, because the worker forks afterwards.
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING

from redlock import RedlockError
from redlock.admin import doctor
from redlock.admin.diagnostics import Finding, Level, worst
from redlock.errors import ConfigurationError

if TYPE_CHECKING:
    from redlock import Redlock
    from redlock.settings import Settings as LockSettings
    from workers.settings import Settings

_POLL_SECONDS = 0.5
_CONTACT_SECONDS = 5.0

logger = logging.getLogger(__name__)


def wait_until_safe(settings: Settings, lock_settings: LockSettings) -> None:
    """Wait until the worker can take tasks safely.

    Raises:
        SystemExit: An unsafe finding that a wait can't cure; the log has the reason.
    """
    logged: set[tuple[str, str]] = set()
    last_contact = 0.0
    while True:
        findings = _findings(settings, lock_settings)
        level = worst(findings)
        if level is Level.UNSAFE:
            logger.error("will not start, the setup is unsafe: %s", _one_line(findings, level))
            raise SystemExit(int(level))
        if level is not Level.NO_QUORUM:
            break
        reasons = {(finding.code, finding.where) for finding in findings}
        if reasons != logged:
            logger.warning("waiting for the lock nodes: %s", _one_line(findings, level))
        if reasons != logged or time.monotonic() - last_contact > _CONTACT_SECONDS:
            with contextlib.suppress(RedlockError), lock_settings.client() as client:
                contact_nodes(client)
            logged, last_contact = reasons, time.monotonic()
        time.sleep(_POLL_SECONDS)
    if logged:
        logger.info("a quorum of lock nodes votes: starting")
    for finding in findings:
        if finding.level is Level.WARNING:
            logger.warning("doctor: %s", finding)


def _findings(settings: Settings, lock_settings: LockSettings) -> list[Finding]:
    try:
        return doctor.check(lock_settings, broker=settings.broker_url, store=settings.store_url)
    except ConfigurationError as error:
        return [Finding(Level.UNSAFE, "settings", "settings", str(error))]


def _one_line(findings: list[Finding], level: Level) -> str:
    return "; ".join(str(finding) for finding in findings if finding.level is level)


def contact_nodes(client: Redlock) -> None:
    """Contact the lock nodes: a new node votes only `max_ttl` after its first contact."""
    with contextlib.suppress(RedlockError):
        lease = client.lease("worker start", owner_label="worker start")
        lease.acquire(0)
        lease.release()

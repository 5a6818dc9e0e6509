"""A worker's start: the doctor looks first.

Rules: a worker does not start where it is unsafe, and says why in one line; it waits where there is no quorum of nodes
yet, and says that too, once for each reason; anything less is a warning. Nothing is left open: workers fork after this.
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
    from redlock.settings import Settings as LockSettings
    from workers.settings import Settings

_LOOK_SECONDS = 0.5
_MEET_SECONDS = 5.0

logger = logging.getLogger(__name__)


def when_safe(settings: Settings, lock_settings: LockSettings) -> None:
    """Come back when tasks can be taken safely.

    Raises:
        SystemExit: It is unsafe, and waiting would not help; the log says why.
    """
    said: set[tuple[str, str]] = set()
    met = 0.0
    while True:
        findings = _look(settings, lock_settings)
        level = worst(findings)
        if level is Level.UNSAFE:
            logger.error("will not start, it is unsafe: %s", _one_line(findings, level))
            raise SystemExit(int(level))
        if level is not Level.NO_QUORUM:
            break
        reasons = {(finding.code, finding.where) for finding in findings}
        if reasons != said:
            logger.warning("waiting for the lock nodes: %s", _one_line(findings, level))
        if reasons != said or time.monotonic() - met > _MEET_SECONDS:
            _be_known(lock_settings)
            said, met = reasons, time.monotonic()
        time.sleep(_LOOK_SECONDS)
    if said:
        logger.info("a quorum of lock nodes votes: starting")
    for finding in findings:
        if finding.level is Level.WARNING:
            logger.warning("doctor: %s", finding)


def _look(settings: Settings, lock_settings: LockSettings) -> list[Finding]:
    try:
        return doctor.check(lock_settings, broker=settings.broker_url, store=settings.store_url)
    except ConfigurationError as error:
        return [Finding(Level.UNSAFE, "settings", "settings", str(error))]


def _one_line(findings: list[Finding], level: Level) -> str:
    return "; ".join(str(finding) for finding in findings if finding.level is level)


def _be_known(lock_settings: LockSettings) -> None:
    """Meet the nodes: brand-new ones vote when they have been known for `max_ttl`, and not before somebody came."""
    with contextlib.suppress(RedlockError), lock_settings.client() as client:
        lease = client.lease("worker start", owner_label="worker start")
        lease.acquire(0)
        lease.release()

"""The log lines of the leases of a client: acquired, retry, refused, extended, lost, released.

Invariants: each event is one line. The line shows at most eight digits of the secret in an owner token. The votes are
letters, and each node without a vote is listed with its reason.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

from redlock import _log
from redlock._core.protocol import Outcome
from redlock._core.votes import masked_token
from redlock._locking.failures import reasons
from redlock.errors import RedlockError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redlock._core.votes import Grant, Refusal, RoundResult
    from redlock._transport.node import Node

E = TypeVar("E", bound=RedlockError)


class LockEventLog:
    """The log of a client."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = nodes

    def acquired(self, resource: str, grant: Grant, waited_ms: int) -> None:
        """A lease was acquired."""
        if not _log.is_heard("acquired"):
            return
        _log.info(
            "acquired",
            resource=resource,
            holder=masked_token(grant.token),
            fence=grant.fence,
            rounds=grant.rounds,
            waited_ms=waited_ms,
            **self._votes(grant.round_result),
        )

    def retry(self, resource: str, owner_label: str, refusal: Refusal, lost_rounds: int, pause_ms: int) -> None:
        """An attempt was refused, and another attempt follows."""
        if not _log.is_heard("retry", logging.DEBUG):
            return
        holder = refusal.round_result.holder
        _log.debug(
            "retry",
            resource=resource,
            owner_label=owner_label,
            holder=masked_token(holder) if holder else "-",
            attempt=lost_rounds,
            pause_ms=pause_ms,
            **self._votes(refusal.round_result),
        )

    def refused(self, owner_label: str, round_result: RoundResult, error: E) -> E:
        """An acquisition ended without the lock; returns its error.

        The caller raises the error without a name for it. A name would keep the error and its frames alive until a
        garbage collection, and with a frame of the driver the turn on a set of connections.
        """
        _log.info("refused", resource=error.lock_name, owner_label=owner_label, why=error, **self._votes(round_result))
        return error

    def extended(self, resource: str, grant: Grant) -> None:
        """A lease was extended."""
        if not _log.is_heard("extended", logging.DEBUG):
            return
        repaired = ", ".join(self._nodes[place].label for place in grant.round_result.missing)
        _log.debug(
            "extended",
            resource=resource,
            holder=masked_token(grant.token),
            repaired=repaired or "-",
            **self._votes(grant.round_result),
        )

    def not_extended(self, resource: str, grant: Grant, refusal: Refusal, *, is_line_due: bool) -> None:
        """An extension failed; the old deadline stands. Without a line the failure is only counted."""
        emit = _log.warning if is_line_due else _log.count
        emit("not-extended", resource=resource, holder=masked_token(grant.token), **self._votes(refusal.round_result))

    def lost(self, resource: str, grant: Grant, why: str) -> None:
        """A lease is known to be lost while its holder is at work."""
        _log.warning("lost", resource=resource, holder=masked_token(grant.token), fence=grant.fence, why=why)

    def released(self, resource: str, grant: Grant, outcome: Outcome) -> None:
        """A lease was released."""
        if outcome is Outcome.RELEASED and not _log.is_heard("released"):
            return
        emit = _log.info if outcome is Outcome.RELEASED else _log.warning
        emit(outcome.value, resource=resource, holder=masked_token(grant.token), fence=grant.fence)

    def _votes(self, round_result: RoundResult) -> dict[str, object]:
        return {"votes": round_result.votes_text, "missing": reasons(self._nodes, round_result)}

"""The fencing tokens that a client has observed, per resource, so that its next proposal is larger.

Invariants:
1. A token of one resource is never proposed for another.
2. Memory is bounded: the resources that were observed first are forgotten. Tokens grow without this memory too. The
   memory serves a store that has seen a larger token than any node, and saves second rounds.
3. A token more than an hour ahead of the wall clock is not remembered: the nodes would refuse every later proposal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redlock._core.commands import Names

FENCE_AHEAD_MS = 3600 * 1000
"""A node refuses a token that is further ahead of its clock, proposed or stored."""


class ObservedFences:
    """The largest token that was observed for each resource.

    Args:
        most: How many resources are remembered.
    """

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._largest: dict[str, int] = {}

    def proposal(self, names: Names, wall_us: int) -> int:
        """The fencing token to propose: the wall clock, or one more than the largest token observed."""
        if not self._largest:
            return wall_us
        return max(wall_us, *(self._largest.get(name, 0) + 1 for name in names))

    def observe(self, names: Names, fence: int, wall_us: int) -> bool:
        """Remember a token; False if the token is too far ahead of the wall clock to be valid."""
        if fence > wall_us + FENCE_AHEAD_MS * 1_000:
            return False
        for name in names:
            if fence > self._largest.get(name, 0):
                self._largest[name] = fence
        if len(self._largest) > self._most:
            self._largest = dict([*self._largest.items()][self._most // 2 :])
        return True

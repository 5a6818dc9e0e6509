"""The scripts' effects on a node's lock and fence, in Python, for the exhaustive search.

Rules of this file:
1. A line here is a line of `redlock/_transport/scripts/{acquire,confirm,release,repair}.lua`.
   `test_exhaustive.py` runs both on random inputs and compares every vote and all that is left on the node; change
   them together.
2. Pure functions on frozen values: the node before, the node after, the vote.
3. One resource. Time, TTLs and the queue of waiters are left out: in the search a key may go at any moment, and any
   node may say DENIED at any moment.
"""

from __future__ import annotations

from typing import NamedTuple

from redlock._core.votes import Kind, Vote


class Node(NamedTuple):
    """A resource on one node: the owner token in the key, "" if it is absent, and the fence, 0 if it is absent."""

    holder: str = ""
    fence: int = 0


def acquire(node: Node, token: str, proposed: int) -> tuple[Node, Vote]:
    """acquire.lua: set a free lock, and raise the fence."""
    fence = max(proposed - 1, node.fence)
    if node.holder == token:
        return node, Vote(Kind.GRANTED, node.fence)
    if node.holder:
        return node, Vote(Kind.DENIED, fence, node.holder)
    return Node(token, fence + 1), Vote(Kind.GRANTED, fence + 1)


def confirm(node: Node, token: str, fence: int) -> tuple[Node, Vote]:
    """confirm.lua: raise a strictly smaller fence to this number if the lock holds the owner token."""
    if node.holder != token or node.fence >= fence:
        return node, Vote(Kind.DENIED, node.fence, node.holder)
    return Node(token, fence), Vote(Kind.GRANTED, fence)


def release(node: Node, token: str) -> tuple[Node, Vote]:
    """release.lua: delete a lock that holds the owner token. To the search that is a key that expires."""
    if node.holder == token:
        return node._replace(holder=""), Vote(Kind.GRANTED)
    return node, Vote(Kind.DENIED, holder=node.holder)


def repair(node: Node, token: str, fence: int) -> tuple[Node, Vote]:
    """repair.lua: write a missing lock again, and raise the fence to at least the lease's fence."""
    if node.holder and node.holder != token:
        return node, Vote(Kind.DENIED, holder=node.holder)
    return Node(token, max(node.fence, fence)), Vote(Kind.GRANTED, fence)

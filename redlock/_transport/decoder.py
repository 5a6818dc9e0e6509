"""A node's reply as a vote, and an error reply as a reason for people.

Invariants: no reply raises an error. A reply that no script returns is no vote.
"""

from __future__ import annotations

import re
import reprlib

from redlock._core.votes import Kind, Vote, silent
from redlock._escaping import statement
from redlock._transport.reply_reader import MORE, ReplyReader

_LONGEST_REASON, _LONGEST_NO_VOTE = 200, 60
_LONGEST_TERMS = 1_200
"""The prefix is part of the fingerprint, and may have 1,024 bytes."""
_GRANTED = Kind.GRANTED
_new_tuple = tuple.__new__
_RELEASED_REPLY = b"*3\r\n:1\r\n:0\r\n:0\r\n"
_RELEASED = Vote(Kind.GRANTED)
"""The vote for a release of a lock that the node had."""
_GRANTED_WORDS = 3
_NUMBER = r"(0|[1-9][0-9]{0,17})\r\n"
_grant_at = re.compile(rf"\*3\r\n:1\r\n:{_NUMBER}:{_NUMBER}".encode()).match
_HOLDER = rf"\${_NUMBER}([^\r]*)\r\n"
_denial_at = re.compile(rf"\*5\r\n:0\r\n:{_NUMBER}:{_NUMBER}{_HOLDER}:(?:-1\r\n|{_NUMBER})".encode()).match


class VoteReader:
    """Reads the replies to the commands of rounds, which arrive in pieces."""

    def __init__(self) -> None:
        self._parser = ReplyReader()
        self._is_inside = False
        """Whether the last piece has ended inside a reply."""

    def read(self, piece: bytes) -> list[Vote]:
        """The votes of the replies that these bytes complete.

        Nearly all replies are grants and denials. Without a parser for any reply they cost a third of the time.

        Raises:
            UnreadableReply: The bytes are not the Redis protocol, or a reply is too long.
        """
        votes: list[Vote] = []
        at = self._parse(piece, 0, votes) if self._is_inside else 0
        if piece.startswith(_RELEASED_REPLY, at):
            votes.append(_RELEASED)
            at += len(_RELEASED_REPLY)
        while at < len(piece):
            grant = _grant_at(piece, at)
            if grant is not None:
                time_ms, fence = grant.groups()
                # As `Vote(Kind.GRANTED, int(fence), time_ms=int(time_ms))`, in half of the time.
                votes.append(_new_tuple(Vote, (_GRANTED, int(fence), "", None, "", False, "", int(time_ms), False, "")))
                at = grant.end()
                continue
            denial = _denial_at(piece, at)
            if denial is None or len(denial[4]) != int(denial[3]):
                at = self._parse(piece, at, votes)
                continue
            remaining_ms = None if denial[5] is None else int(denial[5])
            votes.append(Vote(Kind.DENIED, int(denial[2]), _str(denial[4]), remaining_ms, time_ms=int(denial[1])))
            at = denial.end()
        return votes

    def _parse(self, piece: bytes, at: int, votes: list[Vote]) -> int:
        """Parse any reply, or a part of it; returns the place behind."""
        reply, rest = self._parser.read_first(piece[at:])
        self._is_inside = reply is MORE
        if not self._is_inside:
            votes.append(decode(reply))
        return len(piece) - len(rest)


def decode(reply: object) -> Vote:
    """A node's reply as a vote. A reply with a shape that no script returns counts as SILENT."""
    if type(reply) is list and len(reply) == _GRANTED_WORDS:
        kind, time_ms, fence = reply
        if kind == 1 and type(time_ms) is int and type(fence) is int and fence >= 0:
            return _new_tuple(Vote, (_GRANTED, fence, "", None, "", False, "", time_ms, False, ""))
    if isinstance(reply, Exception):
        return silent(explain(str(reply)))
    match reply:
        case [0, int(time_ms), int(fence), bytes() | str() as holder, int(remaining)] if fence >= 0:
            return Vote(Kind.DENIED, fence, _str(holder), remaining if remaining >= 0 else None, time_ms=time_ms)
        case [2, int(time_ms), int(left_ms)]:
            return Vote(Kind.SILENT, remaining_ms=left_ms, reason=abstains(left_ms), time_ms=time_ms)
        case [3, int(time_ms), bytes() | str() as fingerprint]:
            return disagrees(_str(fingerprint))._replace(time_ms=time_ms)
    return silent(f"answered something that is no vote: {statement(reprlib.repr(reply), _LONGEST_NO_VOTE)}")


def disagrees(fingerprint: str) -> Vote:
    """The vote of a node whose other clients have this configuration fingerprint, escaped and cut for messages."""
    shown = statement(fingerprint, _LONGEST_TERMS)
    return Vote(Kind.SILENT, reason=f"its clients agreed on {shown}", fingerprint=shown)


def abstains(left_ms: int) -> str:
    """The reason of a node that has no vote for so long."""
    return f"new, restarted or emptied: abstains for another {left_ms / 1000:.1f} s"


def _str(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


_EXPLAINED = {
    "NOAUTH": "wants a password; put it into the node's URL",
    "WRONGPASS": "wrong user name or password",
    "NOPERM": "the user may not run what the lock needs",
    "WRONGTYPE": "a key of another type is at the lock's name; rename the resource or delete that key",
    "LOADING": "still loading its data",
    "BUSY": "busy with a script",
    "MISCONF": "refuses writes because it can't save its snapshot (MISCONF)",
    "NOREPLICAS": "refuses writes because too few replicas are connected (min-replicas-to-write)",
    "OOM": "out of memory (maxmemory)",
    "READONLY": "a replica; lock nodes must be independent masters",
    "MASTERDOWN": "a replica that lost its master; lock nodes must be independent masters",
    "MOVED": "in cluster mode; lock nodes must be independent masters",
    "CROSSSLOT": "in cluster mode; lock nodes must be independent masters",
    "CLUSTERDOWN": "in cluster mode; lock nodes must be independent masters",
    "FENCEAHEAD": (
        "refuses the proposed fencing token, more than an hour ahead of its clock; set the clock of this machine, or "
        "stop the node, set its clock and start it"
    ),
    "FENCESTORED": (
        "has a fencing token for this resource that is more than an hour ahead of its clock; stop the node, set its "
        "clock and start it, or repair it as the manual says"
    ),
    "DENIED": "in protected mode; set a password, or bind it to loopback",
}


def explain(error: str) -> str:
    """An error reply as a description of the node's problem."""
    code, _, rest = error.lstrip("-").partition(" ")
    # Redis 6.2 puts "ERR Error running script" and more before the error that the script met.
    words = (word.lstrip("-") for word in rest.split())
    inner = next((word for word in words if word in _EXPLAINED), code) if code == "ERR" else code
    return _EXPLAINED.get(inner) or statement(f"{code} {rest}".strip(), _LONGEST_REASON)

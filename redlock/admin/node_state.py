"""The state of a lock node or another Redis, as plain values."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class NodeState:
    """The state of one node as plain values, times in seconds, sizes in bytes.

    Attributes:
        label: `host:port`, `host:port/db` or a socket's path.
        reachable: Whether the node answers and accepts the user.
        reason: The reason for which the node has no vote at this moment: unreachable, unsuitable, another
            configuration fingerprint or a quarantine. Empty if the node votes.
        version: Version of the server, such as `8.2.3` for Redis and `Valkey 9.1.2` for Valkey.
        role: `master` or `slave`.
        mode: `standalone`, `cluster` or `sentinel`.
        run_id: Identity of the server process. Two nodes with the same `run_id` are the same server.
        fingerprint: The configuration fingerprint of the node's clients; empty without a client since the start.
        abstains: Seconds until the quarantine ends; 0 if the node votes.
        clock_offset: Wall clock of the node minus the local clock; None if unknown.
        clock_error: Largest error of the offset, in both directions.
        eviction: The `maxmemory-policy`.
        max_memory: The memory limit; 0 without a limit.
        used_memory: The memory in use.
        aof: Whether the node writes an append-only file; None if not reported.
        fsync: The `appendfsync` of this file: `always`, `everysec`, `no`; empty if not reported.
        rdb: The times of snapshots, as in the server's configuration; empty for never, None if not reported.
        missing: Permissions that the lock needs and this user lacks. Empty also if the server can't report them
            (before 7.0).
        unreported: The commands that the node does not answer and that only administration needs, such as `CONFIG GET`
            and `INFO memory`: forbidden, renamed, or without the expected fields.
        blocked: Number of clients that wait in a blocking read.
        unlisted: The reason for which locks are missing in the list; empty if the list is complete.
        complete: Whether the node has certainly forgotten no lock of these clients. False in quarantine, for an
            unsuitable server, and with another configuration fingerprint.
    """

    label: str
    reachable: bool = False
    reason: str = ""
    version: str = ""
    role: str = ""
    mode: str = ""
    run_id: str = ""
    fingerprint: str = ""
    abstains: float = 0.0
    clock_offset: float | None = None
    clock_error: float = 0.0
    eviction: str = ""
    max_memory: int = 0
    used_memory: int = 0
    aof: bool | None = False
    fsync: str = ""
    rdb: str | None = None
    missing: tuple[str, ...] = ()
    unreported: tuple[str, ...] = ()
    blocked: int = 0
    unlisted: str = ""
    complete: bool = True

    @property
    def votes(self) -> bool:
        """Whether the node votes at this moment."""
        return not self.reason

    @property
    def reports(self) -> bool:
        """Whether the list of locks is complete, so that a lock that is missing in the list is free on this node."""
        return self.reachable and self.complete and not self.unlisted

    def clock_note(self, limit: float) -> str:
        """Return the clock offset in words, or an empty text if the offset may be within `limit` seconds."""
        offset = self.clock_offset or 0.0
        apart = abs(offset) - self.clock_error
        if apart <= limit:
            return ""
        return f"its clock is {apart:.1f} s {'ahead of' if offset > 0 else 'behind'} this machine's"

"""`status_table` and `node_info`: the output for a terminal, and the meaning of a server's answers."""

from __future__ import annotations

import dataclasses

import pytest

from redlock._transport import node_info
from redlock._transport.reply_reader import ReplyError
from redlock.admin.cluster_status import ClusterStatus, LockInfo
from redlock.admin.node_state import NodeState
from redlock.cli.status_table import table

UP = NodeState("h:1", reachable=True, version="8.2.3", used_memory=2**20, clock_offset=0.002, aof=True, fsync="always")
DOWN = NodeState("h:2", reason="connection refused")
HELD = LockInfo(
    "account:42",
    "task-1@w1",
    "2026-11-24T12:00:00Z",
    "0123abcd",
    4.25,
    (True, None, False),
    held=False,
    fence=1795,
    waiters=2,
)


def lines(
    *locks: LockInfo, more: bool = False, nodes: tuple[NodeState, ...] = (UP, UP, DOWN), color: bool = False
) -> list[str]:
    return table(ClusterStatus(nodes, locks, more, 2, "", 0.0), color=color).splitlines()


def test_each_node_and_each_lock_is_a_line() -> None:
    assert lines(HELD) == [
        "NODE  VOTES                   VERSION  MEMORY   CLOCK  KEEPS",
        "h:1   yes                     8.2.3    1.0 MiB  +2 ms  AOF always",
        "h:1   yes                     8.2.3    1.0 MiB  +2 ms  AOF always",
        "h:2   no: connection refused",
        "2 of 3 nodes vote, 2 are needed",
        "",
        "RESOURCE    HOLDER                           SINCE                 LEFT   VOTES    TOKEN  WAITERS",
        "account:42  task-1@w1 (0123abcd), no quorum  2026-11-24T12:00:00Z  4.2 s  +?- 1/3  1795   2",
    ]


@pytest.mark.parametrize(
    ("aof", "rdb", "keeps"),
    [(False, "", "nothing"), (False, "60 1", "snapshots"), (None, "", "unknown"), (False, None, "unknown")],
)
def test_persistence_that_is_not_reported_is_unknown(aof: bool | None, rdb: str | None, keeps: str) -> None:
    assert lines(nodes=(dataclasses.replace(UP, aof=aof, rdb=rdb), UP))[1].endswith(f"  {keeps}")


def test_no_locks_and_too_many_locks_are_said() -> None:
    assert lines()[-1] == "no locks are held"
    assert "and more" in lines(HELD, more=True)[-1]
    assert "no lock is held among the names that were read" in lines(more=True)


def test_a_node_whose_locks_can_not_be_read_is_named() -> None:
    shut = NodeState("h:3", reachable=True, unlisted="the user may not run what the lock needs")
    assert lines(nodes=(shut,))[-1] == "h:3: its locks could not all be read: the user may not run what the lock needs"


def test_what_comes_from_the_nodes_can_not_drive_the_terminal() -> None:
    evil = dataclasses.replace(HELD, resource="a\x9b2J", holder="\x1b]0;x\x07")
    assert all(line.isprintable() for line in lines(evil))


def test_a_name_with_blanks_adds_no_columns() -> None:
    """The sender of a task names its resource."""
    (line,) = lines(dataclasses.replace(HELD, resource="pay  task-9@w1  2026-11-24T12:00:00Z"))[-1:]
    assert line.startswith(r"pay \x20task-9@w1 \x202026-11-24T12:00:00Z  task-1@w1 (0123abcd)")


def test_a_long_reason_hides_no_other_node() -> None:
    said = (dataclasses.replace(node, reason="x" * 1_200) for node in (UP, DOWN))
    shown = lines(nodes=(UP, *said))
    assert max(map(len, shown)) < 200


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("a", True),
        ("", False),
        ("\x01redlock:node", False),
        ("a\nb", False),
        ("\udcff", False),
        ("a\u202eb", False),
        ("a\u200b", False),
        ("é" * 513, False),
    ],
)
def test_only_what_can_be_the_name_of_a_resource_is_one(name: str, fits: bool) -> None:
    assert node_info.is_resource(name) is fits


@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        ([], ()),
        (None, ()),
        ([b"BLPOP", b"SCRIPT LOAD"], ("BLPOP", "SCRIPT LOAD")),
        (ReplyError("NOPERM User limited has no permissions to run the 'eval' command"), ("EVAL",)),
        ([b"FLUSHALL lock1", b"x" * 60_000, b"TIME", b"TIME"], ("TIME",)),
        (ReplyError("LOADING Redis is loading the dataset in memory"), ()),
        (
            [
                name.encode()
                for name in ["HMGET", "HSET", "GET", "SET", "DEL", "PTTL", "PEXPIRE", "LLEN", "RPUSH", "BLPOP", "TIME"]
            ],
            ("TIME", r"the keys \x01redlock:*"),
        ),
    ],
)
def test_what_a_user_may_not_do(answer: object, missing: tuple[str, ...]) -> None:
    assert node_info.missing(answer) == missing


def test_answers_of_another_shape_are_no_news() -> None:
    assert node_info.fields(b"# Server\r\nrun_id:a:b\r\n\r\n") == {"run_id": "a:b"}
    assert node_info.fields(ReplyError("NOPERM")) == {}
    assert node_info.setting([b"save", b""]) == ""
    assert node_info.setting([]) is None
    assert node_info.setting(ReplyError("NOPERM")) is None
    assert node_info.text(None) == ""


UNKNOWN = "The state of the locks is unknown: 1 of 3 nodes report it, 2 are needed."
EMPTIED = dataclasses.replace(UP, label="h:3", reason="abstains for another 5.0 s", abstains=5.0, complete=False)
FULL = dataclasses.replace(UP, label="h:4", reason="out of memory (maxmemory)")
UNREAD = dataclasses.replace(UP, label="h:5", unlisted="no answer within 500 ms")


@pytest.mark.parametrize("other", [DOWN, EMPTIED, UNREAD])
def test_without_a_quorum_the_state_is_unknown(other: NodeState) -> None:
    said = lines(nodes=(UP, DOWN, other))
    assert said[0] == UNKNOWN
    assert "no locks are held" not in said
    assert "the remaining nodes report no lock, which proves nothing" in said


def test_without_a_quorum_the_locks_are_unconfirmed() -> None:
    said = lines(HELD, nodes=(UP, DOWN, EMPTIED))
    assert said[0] == UNKNOWN
    assert "unconfirmed, as the remaining nodes report:" in said
    assert "task-1@w1 (0123abcd), unconfirmed" in said[-1]


def test_a_node_that_refuses_writes_still_reports_its_locks() -> None:
    said = lines(nodes=(UP, FULL, FULL))
    assert said[0] == "No lock can be acquired: 1 of 3 nodes vote, 2 are needed."
    assert "no locks are held" in said


def test_a_problem_is_red_where_colours_are_allowed() -> None:
    first, *rest = lines(nodes=(UP, DOWN, EMPTIED), color=True)
    assert first == f"\x1b[31m{UNKNOWN}\x1b[0m"
    red = [line for line in rest if line.startswith("\x1b[31m")]
    assert [word in "".join(red) for word in ("connection refused", "abstains", "nodes vote")] == [True] * 3
    assert not any("\x1b" in line for line in lines(nodes=(UP, UP, UP), color=True))


def test_a_wrong_clock_is_said_beside_the_node() -> None:
    ahead = dataclasses.replace(UP, label="h:6", clock_offset=7.25)
    said = lines(nodes=(UP, UP, ahead), color=True)
    (line,) = [line for line in said if "h:6" in line]
    assert "yes; its clock is 7.2 s ahead of this machine's" in line
    assert line.startswith("\x1b[31m")

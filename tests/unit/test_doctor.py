"""`redlock.admin.doctor`: the findings of a status and settings, and the order of their levels."""

from __future__ import annotations

import dataclasses
import errno
import os
from typing import Any

import pytest

from redlock._transport.node import describe_failure
from redlock.admin import doctor
from redlock.admin.cluster_status import ClusterStatus
from redlock.admin.diagnostics import Finding, Level, sort, worst
from redlock.admin.node_state import NodeState
from redlock.settings import Settings

TERMS = "nodes=5 max_ttl=10s prefix=''"
GOOD = NodeState("n", reachable=True, version="8.2.3", role="master", mode="standalone", eviction="noeviction", rdb="")


def nodes(*changes: dict[str, Any], count: int = 5) -> tuple[NodeState, ...]:
    """Good nodes, the first of them with these changes."""
    good = [dataclasses.replace(GOOD, label=f"n{place}", run_id=f"r{place}") for place in range(count)]
    return tuple(dataclasses.replace(node, **change) for node, change in zip(good, changes, strict=False)) + tuple(
        good[len(changes) :]
    )


def seen(states: tuple[NodeState, ...]) -> ClusterStatus:
    """The status of these nodes, without a lock."""
    return ClusterStatus(states, (), more=False, quorum=len(states) // 2 + 1, fingerprint=TERMS, time=0.0)


def levels(states: tuple[NodeState, ...], **settings: Any) -> dict[str, Level]:  # noqa: ANN401 - as Settings takes it
    """The code and level of each finding, without the level FINE."""
    findings = doctor.examine(seen(states), Settings(**settings))
    assert all("None" not in str(finding) for finding in findings)
    return {finding.code: finding.level for finding in findings if finding.level is not Level.FINE}


def test_good_nodes_and_settings_are_fine() -> None:
    assert levels(nodes()) == {}
    assert levels(nodes({"fingerprint": TERMS})) == {}
    assert levels(nodes({"version": "managed"}, {"version": ""})) == {}, "clients take a hidden version for a later one"


@pytest.mark.parametrize(
    ("change", "code", "level"),
    [
        ({"version": "6.0.20", "reason": "x"}, "version", Level.UNSAFE),
        ({"role": "slave", "reason": "a replica of h:1; lock nodes must be"}, "replica", Level.UNSAFE),
        ({"mode": "cluster", "reason": "in cluster mode"}, "cluster-mode", Level.UNSAFE),
        ({"fingerprint": "nodes=3", "reason": "its clients agreed on nodes=3"}, "fingerprint", Level.UNSAFE),
        ({"run_id": "r1"}, "duplicate-server", Level.WARNING),
        ({"eviction": "allkeys-lru", "max_memory": 1_000}, "eviction", Level.UNSAFE),
        ({"eviction": "volatile-ttl", "max_memory": 1_000}, "eviction", Level.UNSAFE),
        ({"eviction": "allkeys-lru"}, "eviction", Level.WARNING),
        ({"max_memory": 1_000, "used_memory": 900}, "memory", Level.WARNING),
        ({"missing": ("BLPOP",), "reason": "x"}, "permissions", Level.WARNING),
        ({"abstains": 3.0, "reason": "new, restarted or emptied: abstains"}, "quarantine", Level.WARNING),
        ({"reachable": False, "reason": "connection refused"}, "unreachable", Level.WARNING),
        ({"reachable": False, "reason": "wants a password; put it"}, "access", Level.WARNING),
        ({"reachable": False, "reason": "wrong user name or password"}, "access", Level.WARNING),
        ({"reason": "still loading its data"}, "no-vote", Level.WARNING),
        ({"clock_offset": 3.0}, "clock", Level.WARNING),
        ({"clock_offset": -3.0}, "clock", Level.WARNING),
    ],
)
def test_one_bad_node_is_one_finding(change: dict[str, Any], code: str, level: Level) -> None:
    assert levels(nodes(change)) == {code: level}


def test_a_minority_with_other_terms_is_a_warning() -> None:
    other, ours = {"fingerprint": "nodes=3", "reason": "its clients agreed on nodes=3"}, {"fingerprint": TERMS}
    assert levels(nodes(other, other, ours, ours, ours)) == {"fingerprint": Level.WARNING}
    assert levels(nodes(other, other, other, ours, ours))["fingerprint"] is Level.UNSAFE


def test_a_clock_that_is_not_known_well_enough_is_no_finding() -> None:
    assert levels(nodes({"clock_offset": 3.0, "clock_error": 2.5})) == {}


@pytest.mark.parametrize(
    ("error", "fix"),
    [(errno.EMFILE, "raise its limit, ulimit -n"), (errno.ECONNREFUSED, "start it, or fix its address")],
)
def test_a_limit_of_this_process_is_no_fault_of_a_node(error: int, fix: str) -> None:
    reason = describe_failure(OSError(error, os.strerror(error)), 100)
    (node,) = nodes({"reachable": False, "reason": reason}, count=1)
    for findings in (doctor.examine(seen((node,)), Settings()), doctor.examine_server("broker", node, seen((node,)))):
        assert [found.fix for found in findings if found.code == "unreachable"] == [fix]


def test_a_clock_is_set_while_its_node_is_stopped() -> None:
    """A step on a running node can end its leases, and its quarantine: two holders at once."""
    findings = doctor.examine(seen(nodes({"clock_offset": -3.0})), Settings())
    (found,) = [one for one in findings if one.code == "clock"]
    assert "stop the node, set its clock, start it" in found.fix


def test_a_node_with_memory_left_is_fine() -> None:
    assert levels(nodes({"max_memory": 1_000, "used_memory": 700})) == {}


@pytest.mark.parametrize(("dead", "found"), [(1, {}), (2, {}), (3, {"no-quorum": Level.NO_QUORUM})])
def test_two_of_five_may_be_silent_and_three_may_not(dead: int, found: dict[str, Level]) -> None:
    silent = {"reachable": False, "reason": "connection refused"}
    assert levels(nodes(*[silent] * dead)) == {"unreachable": Level.WARNING} | found


def test_too_few_votes_are_no_quorum_for_any_reason() -> None:
    abstain = {"abstains": 3.0, "reason": "new, restarted or emptied: abstains"}
    assert levels(nodes(abstain, abstain, {"missing": ("SET",), "reason": "x"}))["no-quorum"] is Level.NO_QUORUM


def test_the_reason_of_a_node_hides_no_other_reason() -> None:
    states = nodes({"reason": "ERR password='"}, {"reason": "still loading its data"}, {"reason": "READONLY"})
    worst_first = doctor.examine(seen(states), Settings())
    assert "n1: still loading its data; n2: READONLY" in worst_first[0].what


@pytest.mark.parametrize(("count", "found"), [(1, True), (2, True), (3, False), (4, True), (5, False), (6, True)])
def test_one_node_and_even_numbers_are_warned_of(count: int, found: bool) -> None:
    assert levels(nodes(count=count)) == ({"number": Level.WARNING} if found else {})


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"ttl": 11.0}, {"ttl": Level.UNSAFE}),
        ({"ttl": 0.1}, {"ttl": Level.UNSAFE}),
        ({"ttl": float("nan")}, {"ttl": Level.UNSAFE}),
        ({"node_timeout": -1.0}, {"ttl": Level.UNSAFE}),
        ({"node_timeout": 0.000_9}, {"ttl": Level.UNSAFE}),
        ({"ttl": 0.9}, {"ttl-short": Level.WARNING}),
        ({"ttl": 1.0}, {}),
        ({"max_ttl": 3_600.0}, {"max-ttl-long": Level.WARNING}),
    ],
)
def test_settings_that_do_not_fit_together(settings: dict[str, float], found: dict[str, Level]) -> None:
    assert levels(nodes(), **settings) == found


@pytest.mark.parametrize(
    ("change", "what", "found"),
    [
        ({"aof": True, "fsync": "always"}, "store", {}),
        ({"aof": True, "fsync": ""}, "store", {}),
        ({"aof": True, "fsync": "everysec"}, "store", {"persistence": Level.WARNING}),
        ({"aof": True, "fsync": "everysec"}, "broker", {}),
        ({"rdb": "3600 1"}, "broker", {}),
        ({"rdb": None}, "broker", {}),
        ({}, "broker", {"persistence": Level.WARNING}),
        ({"aof": True, "run_id": "r2"}, "broker", {"shared-server": Level.WARNING}),
        ({"aof": True, "role": "slave"}, "broker", {"replica": Level.WARNING}),
        ({"aof": True, "eviction": "allkeys-lru", "max_memory": 9}, "broker", {"eviction": Level.WARNING}),
        ({"aof": True, "eviction": "allkeys-lru", "max_memory": 9}, "store", {"eviction": Level.UNSAFE}),
        ({"reachable": False, "reason": "connection refused"}, "store", {"unreachable": Level.WARNING}),
    ],
)
def test_what_is_said_of_broker_and_store(change: dict[str, Any], what: str, found: dict[str, Level]) -> None:
    findings = doctor.examine_server(what, dataclasses.replace(GOOD, **change), seen(nodes()))
    assert {finding.code: finding.level for finding in findings} == (found or {what: Level.FINE})


def finding(level: Level) -> Finding:
    return Finding(level, level.name, "here", "is so", "do that")


def test_unsafe_outweighs_no_quorum_and_no_quorum_a_warning() -> None:
    fine, warning, unsafe, no_quorum = map(finding, Level)
    assert worst([]) is Level.FINE
    assert worst([fine, warning]) is Level.WARNING
    assert worst([warning, no_quorum]) is Level.NO_QUORUM
    assert worst([no_quorum, unsafe]) is Level.UNSAFE
    assert sort([fine, no_quorum, warning, unsafe]) == [unsafe, no_quorum, warning, fine]
    assert [int(level) for level in Level] == [0, 1, 2, 3]


def test_a_finding_is_one_line_with_what_mends_it() -> None:
    assert str(finding(Level.WARNING)) == "here: is so; do that"
    assert str(Finding(Level.FINE, "x", "here", "is so")) == "here: is so"
    assert finding(Level.NO_QUORUM).as_dict()["level"] == "no_quorum"


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        ({"aof": True, "fsync": "always"}, "even if all nodes restart at once"),
        ({"aof": True, "fsync": "everysec"}, "append-only file, with a little lost"),
        ({"rdb": "3600 1"}, "snapshots, with a little lost"),
        ({}, "share a node that was not restarted"),
    ],
)
def test_it_says_which_promise_the_persistence_gives(change: dict[str, Any], promise: str) -> None:
    findings = doctor.examine(seen(nodes(*[change] * 5)), Settings())
    (said,) = [one for one in findings if one.code == "persistence"]
    assert promise in said.what
    assert said.where == "nodes"


def test_no_finding_shows_the_password_of_an_address() -> None:
    address = "broker amqp://user:canary@h:1"
    found = Finding(
        Level.WARNING, "unreachable", address, f"{address} does not answer", "write amqp://user:password@host"
    )
    assert "canary" not in f"{found}{found!r}{found.as_dict()}"
    assert found.fix == "write amqp://user:password@host"

"""Lock nodes of `redlock.testing`: each method in an unusual order has its effect, or a clear error."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from redlock import ConfigurationError
from redlock.testing import LockNode, lock_nodes
from redlock.testing.redis_server import cluster
from tests.integration.processes import children
from tests.integration.shell import run_python
from tests.integration.tools import eventually, raw

DOES_NOT_RUN = r"the server unix://.* does not run; call `start` first"


@pytest.fixture
def node() -> Iterator[LockNode]:
    with lock_nodes(1) as (made,):
        yield made


@pytest.mark.parametrize("end", ["kill", "outside"])
@pytest.mark.parametrize(
    "method",
    [
        LockNode.freeze,
        LockNode.thaw,
        LockNode.empty,
        LockNode.cut,
        lambda node: node.restart(memory=True),
        lambda node: node.pid,
    ],
)
def test_a_node_that_does_not_run_says_so(node: LockNode, method: Callable[[LockNode], object], end: str) -> None:
    if end == "kill":
        node.kill()
    else:
        os.kill(node.pid, 9)
        eventually(lambda: not node.is_running, "the end of the server")
    with pytest.raises(ConfigurationError, match=DOES_NOT_RUN):
        method(node)
    node.reset()
    assert node.is_running


@pytest.mark.parametrize("revive", [LockNode.restart, LockNode.start, LockNode.reset])
def test_a_killed_node_runs_again(node: LockNode, revive: Callable[[LockNode], object]) -> None:
    node.kill()
    node.reconnect()
    revive(node)
    node.freeze()
    node.thaw()
    node.empty()


def test_a_node_that_is_ending_is_reset(node: LockNode) -> None:
    os.kill(node.pid, 9)
    node.reset()
    node.empty()


def test_a_node_that_was_cut_and_killed_can_be_reached(node: LockNode) -> None:
    node.cut()
    node.kill()
    node.start()
    node.empty()


def test_a_node_that_runs_is_started_once(node: LockNode) -> None:
    before = children()
    with pytest.raises(ConfigurationError, match=r"the server unix://.* runs already"):
        node.start()
    assert children() == before
    node.empty()


def test_a_node_that_was_stopped_stays_so() -> None:
    with lock_nodes(1) as (node,):
        pass
    node.stop()
    with pytest.raises(ConfigurationError, match="was stopped and its directory is gone; make a new"):
        node.start()


IN_A_CHILD = """
import os
from redlock.testing import lock_nodes
with lock_nodes(1) as (node,):
    child = os.fork()
    if not child:
        raise SystemExit  # ends the block, and then the interpreter
    os.waitpid(child, 0)
    node.empty()
"""


def test_a_forked_child_leaves_the_nodes_to_its_parent() -> None:
    run_python("-c", IN_A_CHILD, check=True)


def test_a_frozen_node_is_named(node: LockNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redlock.testing.nodes._TIMEOUT_SECONDS", 0.2)
    node.freeze()
    for method in (node.empty, node.cut):
        with pytest.raises(ConfigurationError, match="does not answer; if it is frozen, call `thaw`"):
            method()
    node.thaw()
    with raw(node) as redis:
        assert redis.ping(), "a cut that failed cuts nothing"


@pytest.mark.parametrize("count", [0, -1, "5", None, 2.5, True])
def test_a_number_of_nodes_that_makes_no_sense(count: Any) -> None:  # noqa: ANN401
    before = children()
    for run in (lock_nodes, cluster):
        with pytest.raises(ConfigurationError, match=r"the number of nodes is .*number, 1 or more"), run(count):
            pass
    with pytest.raises(ConfigurationError, match="the number of nodes is 0"), cluster(ports=[]):
        pass
    assert children() == before


@pytest.mark.parametrize("started", [lock_nodes, cluster])
def test_a_wrong_prefix_leaves_no_server(started: Callable[..., AbstractContextManager[object]]) -> None:
    before = children()
    with pytest.raises(ConfigurationError, match="prefix"), started(1, prefix="a\nb"):
        pass
    assert children() == before

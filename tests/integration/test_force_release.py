"""`redlock release --force`: the fence first, then the lock; the old holder notices, and no other lock is changed."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from redlock import ConfigurationError, LockContended, LockLost, NotHeld, QuorumUnavailable, Redlock
from redlock._clock import wall_us
from redlock._transport import codec
from redlock.admin import force_release
from redlock.cli import main
from redlock.testing.redis_server import Cluster
from tests.integration.threads import started
from tests.integration.tools import (
    LASTING,
    blocked_clients,
    client_of,
    eventually,
    fences,
    holders,
    is_free,
    kill_all,
    leased,
    raw,
    raws,
    stands_on_all,
    wake_ups,
)

NAME = "device:7"


@pytest.fixture(autouse=True)
def _commands_wait_for_all_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that is late would be left out of the numbers that the command prints."""
    monkeypatch.setenv("REDLOCK_NODE_TIMEOUT", "2.2")


@pytest.fixture
def admin(nodes: Cluster) -> Iterator[Redlock]:
    """The client of an operator."""
    with client_of(nodes.urls) as client:
        yield client


def release(nodes: Cluster, *arguments: str) -> int:
    return main.main(["release", NAME, "--nodes", ",".join(nodes.urls), *arguments])


def test_the_old_holder_notices_and_the_next_token_is_larger(
    nodes: Cluster, client: Redlock, admin: Redlock, capsys: pytest.CaptureFixture[str]
) -> None:
    old = leased(client, NAME, owner_label="task-1@w1")
    stands_on_all(nodes.servers, NAME)
    assert release(nodes, "--force", "--yes") == 0
    said = capsys.readouterr().out
    assert f"held by 'task-1@w1 ({old.owner[:8]})' on 5 of 5 nodes" in said
    assert "finds out at its\nnext renewal" in said
    assert old.owner.partition(":")[0] not in said
    eventually(lambda: min(fences(nodes.servers, NAME)) > old.fence, "the larger fence on all nodes")
    eventually(lambda: wake_ups(nodes.servers, NAME) == [1] * 5, "the release on all nodes")
    new = leased(admin, NAME)
    assert new.fence > old.fence + 1, "above what was written when the lock was taken away"
    with pytest.raises(LockLost, match="a quorum of nodes no longer has it"):
        old.extend(5.0)
    assert old.is_lost
    old.release()
    eventually(lambda: holders(nodes.servers, NAME) == [new.owner] * 5, "the new lock on all nodes")
    new.release()


def test_a_holder_that_renews_is_told_that_it_lost(nodes: Cluster, client: Redlock, admin: Redlock) -> None:
    lost = threading.Event()
    lock = client.lock(NAME, ttl=5, on_lost=lambda _: lost.set())
    with pytest.raises(LockLost), lock:
        lease = force_release.target(admin, NAME)
        assert lease is not None
        assert force_release.take_away(admin, lease) == 5
        eventually(lost.is_set, "the old holder's loss")
    assert is_free(nodes.servers, NAME), "a lease that is lost never comes back"


def test_it_wakes_a_waiter(nodes: Cluster) -> None:
    with client_of(nodes.urls, **LASTING) as client, client_of(nodes.urls, **LASTING) as admin:
        old = leased(client, NAME)
        waiter = started(lambda: admin.lock(NAME).acquire())
        eventually(lambda: blocked_clients(nodes.servers), "a waiter")
        lease = force_release.target(admin, NAME)
        assert lease is not None
        force_release.take_away(admin, lease)
        waiter.join(100)
        assert not waiter.is_alive(), "it waits for the end of the old lease"
        with pytest.raises(LockLost):
            old.extend(5.0)


def test_only_the_lease_that_was_shown_is_taken_away(nodes: Cluster, client: Redlock, admin: Redlock) -> None:
    first = leased(client, NAME)
    shown = force_release.target(admin, NAME)
    assert shown is not None
    first.release()
    with pytest.raises(NotHeld, match=f"lock {NAME!r} is no longer held by .*; nothing was changed"):
        force_release.take_away(admin, shown)
    with client.lock(NAME) as second:
        stands_on_all(nodes.servers, NAME)
        before = fences(nodes.servers, NAME)
        with pytest.raises(LockContended):
            force_release.take_away(admin, shown)
        assert holders(nodes.servers, NAME) == [second.owner] * 5
        assert fences(nodes.servers, NAME) == before
        second.extend(5.0)


def test_without_a_quorum_nothing_is_deleted(nodes: Cluster, client: Redlock, admin: Redlock) -> None:
    lease = leased(client, NAME)
    stands_on_all(nodes.servers, NAME)
    shown = force_release.target(admin, NAME)
    assert shown is not None
    kill_all(nodes.servers[:3])
    with pytest.raises(QuorumUnavailable):
        force_release.take_away(admin, shown)
    assert holders(nodes.servers[3:], NAME) == [lease.owner] * 2
    assert release(nodes, "--force", "--yes") == main.NO_QUORUM
    assert holders(nodes.servers[3:], NAME) == [lease.owner] * 2


def test_two_dead_nodes_are_no_hindrance(nodes: Cluster, client: Redlock) -> None:
    old = leased(client, NAME)
    kill_all(nodes.servers[:2])
    assert release(nodes, "--force", "--yes") == 0
    assert is_free(nodes.servers[2:], NAME)
    with pytest.raises(LockLost):
        old.extend(5.0)


def test_a_foreign_lock_that_stands_for_ever_is_taken_away_too(nodes: Cluster, admin: Redlock) -> None:
    for redis in raws(nodes.servers[:2]):
        redis.set(NAME, "somebody else's secret")
    assert release(nodes, "--force", "--yes") == 0
    assert is_free(nodes.servers, NAME)
    for redis in raws(nodes.servers):
        # The value ends like the header of a list.
        redis.set(NAME, "other|48213")
    assert release(nodes, "--force", "--yes") == 0
    with admin.lock(NAME, blocking=False):
        pass


@pytest.mark.parametrize("value", [b"x" * 3_000, b"\xff\xfe\xfd\xfc"], ids=["long", "bytes"])
def test_a_value_that_no_node_can_compare_is_named(
    nodes: Cluster, value: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    for redis in raws(nodes.servers):
        redis.set(NAME, value)
    assert release(nodes, "--force", "--yes") == main.UNCHANGED
    assert "can't be compared; nothing was changed" in capsys.readouterr().err
    for redis in raws(nodes.servers):
        assert redis.strlen(NAME) == len(value)


def test_a_free_lock_is_left_alone(nodes: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert release(nodes, "--force", "--yes") == 0
    assert capsys.readouterr().out == f"No client holds {NAME!r}; nothing was changed.\n"
    assert fences(nodes.servers, NAME) == [0] * 5


def test_a_client_that_disagrees_takes_nothing_away(nodes: Cluster, client: Redlock) -> None:
    lease = leased(client, NAME)
    with client_of(nodes.urls, max_ttl=20) as other:
        shown = force_release.target(other, NAME)
        assert shown is not None
        with pytest.raises(ConfigurationError, match="all clients must agree"):
            force_release.take_away(other, shown)
    lease.extend(5.0)
    lease.release()


@pytest.mark.parametrize("answer", ["", "n", "no"])
def test_it_asks_on_a_terminal_and_takes_anything_but_yes_for_no(
    nodes: Cluster, client: Redlock, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: answer)
    with client.lock(NAME) as lease:
        assert release(nodes, "--force") == main.DECLINED
        lease.extend(5.0)
    monkeypatch.setattr("builtins.input", lambda _: "yes")
    client.lease(NAME).acquire(0)
    assert release(nodes, "--force") == 0
    assert is_free(nodes.servers, NAME)


def test_another_holder_since_the_question_is_4(
    nodes: Cluster, client: Redlock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = client.lease(NAME), client.lease(NAME, owner_label="another")
    first.acquire(0)

    def answer(_: str) -> str:
        first.release()
        second.acquire(1_000)
        return "yes"

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", answer)
    assert release(nodes, "--force") == main.UNCHANGED
    error = capsys.readouterr().err
    assert error.startswith(f"redlock: lock {NAME!r} is not free: held by another")
    assert error.endswith("; nothing was changed\n")
    second.extend(5.0)
    second.release()


def test_without_a_terminal_it_needs_yes_and_always_force(
    nodes: Cluster, client: Redlock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False)
    with client.lock(NAME) as lease:
        assert release(nodes, "--force") == main.BAD_INPUT
        assert "--yes answers" in capsys.readouterr().err
        assert release(nodes, "--yes") == main.BAD_INPUT
        assert "only the holder can release a lock" in capsys.readouterr().err
        lease.extend(5.0)


def test_a_false_token_of_one_node_stops_no_forced_release(
    nodes: Cluster, client: Redlock, admin: Redlock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The false token is within an hour of the operator's clock, and the clocks of the other nodes are behind."""
    with raw(nodes[0]) as redis:
        client.lease(NAME).acquire(0)
        ahead = wall_us() + 3_700_000_000
        redis.set(codec.fence_key(NAME), ahead)
        monkeypatch.setattr("redlock.admin.force_release.wall_us", lambda: wall_us() + 200_000_000)
        lease = force_release.target(admin, NAME)
        assert lease is not None
        assert lease.fence < ahead
        assert force_release.take_away(admin, lease) == 5

"""A wait is visible from its first moment to its end, for each kind of waiter and each kind of end."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest

from redlock import LockContended, Redlock, _log
from redlock._locking import wait_report
from redlock.admin.cluster_status import ClusterStatus, cluster_status
from redlock.cli.status_table import table
from redlock.testing.redis_server import Cluster
from tests.integration.alarms import alarm
from tests.integration.threads import started
from tests.integration.tools import blocked_clients, eventually, label, leased, raw, raws
from tests.no_threads import no_thread

NAME = "account:42"
Events = list[tuple[str, dict[str, object]]]


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Events:
    """The events of waits, as they come."""
    events: Events = []

    def hear(event: str, fields: Mapping[str, object]) -> None:
        events.append((event, dict(fields)))

    monkeypatch.setattr(_log, "_watchers", {})
    _log.watch(hear, "waiting", "wait-ended", "retry", "refused")
    return events


def test_a_wait_before_the_first_attempt_is_visible(client: Redlock, rival: Redlock, heard: Events) -> None:
    """After a recent wait a client joins the queue before its first attempt."""
    client._context.waiters.remember((NAME,), 60, 10_000)
    with rival.lock(NAME), pytest.raises(LockContended):
        client.lease(NAME, owner_label="me").acquire(50)
    assert [event for event, _ in heard] == ["waiting", "refused", "wait-ended"]
    (_, began), _, (_, ended) = heard
    assert (began["resource"], began["owner_label"], began["position"]) == (NAME, "me", 1)
    assert (ended["owner_label"], ended["acquired"]) == ("me", False)


def test_a_caller_that_tries_once_does_not_wait(client: Redlock, rival: Redlock, heard: Events) -> None:
    for lately in (0, 60):
        client._context.waiters.remember((NAME,), lately, 10_000)
        with rival.lock(NAME), pytest.raises(LockContended):
            client.lease(NAME).acquire(0)
    assert [event for event, _ in heard] == ["refused"] * 2


def test_a_wait_ends_when_the_lock_is_acquired(client: Redlock, rival: Redlock, heard: Events) -> None:
    holder, waiter = rival.lease(NAME, owner_label="holder"), client.lease(NAME, owner_label="waiter")
    holder.acquire(0)
    # A task that went back to the queue has waited before.
    waiter.waited_ms, began = 3_600_000, time.time()
    thread = started(lambda: waiter.acquire(None))
    eventually(client._context.waits.pending, "the wait")
    (wait,) = client._context.waits.pending()
    assert (wait.names, wait.owner_label) == ((NAME,), "waiter")
    assert -3_600 <= wait.since - began < 0
    assert client._context.waits.holder((NAME,), 5_000).startswith("holder (")
    holder.release()
    thread.join()
    assert not client._context.waits.pending()
    assert heard[0][1]["holder"] == client._context.waits.holder((NAME,), 5_000)
    assert heard[-1] == ("wait-ended", {**heard[-1][1], "owner_label": "waiter", "acquired": True})
    assert waiter.waited_ms >= 3_600_000 <= int(str(heard[-1][1]["waited_ms"]))
    waiter.release()


def test_a_wait_ends_when_it_is_interrupted(nodes: Cluster, client: Redlock, rival: Redlock, heard: Events) -> None:
    waits = partial(blocked_clients, nodes.servers)
    with rival.lock(NAME), pytest.raises(KeyboardInterrupt), alarm(KeyboardInterrupt(), waits):
        client.lease(NAME).acquire(None)
    assert not client._context.waits.pending()
    assert heard[-1][0] == "wait-ended"
    assert not heard[-1][1]["acquired"]


def seen(nodes: Cluster, prefix: str = "") -> list[tuple[str, int, str]]:
    """The waiters that the nodes report: name, position and holder."""
    return [
        (one.waiter, one.position, one.holder) for one in cluster_status(nodes.urls, prefix=prefix, timeout=5.0).waiters
    ]


@contextlib.contextmanager
def waiting(client: Redlock, *owner_labels: str) -> Iterator[None]:
    """Threads that wait one after the other, and release the lock."""

    def wait(owner_label: str) -> None:
        lease = client.lease(NAME, owner_label=owner_label)
        lease.acquire(None)
        lease.release()

    local_queue = client._context.waiters.local_queue
    threads = [threading.Thread(target=wait, args=(owner_label,)) for owner_label in owner_labels]
    for number, thread in enumerate(threads, 1):
        thread.start()
        eventually(lambda number=number: local_queue.length((NAME,)) == number, "its place")  # type: ignore[misc]  # binds the number
    yield
    for thread in threads:
        thread.join()


def test_threads_of_a_process_have_positions(client: Redlock, rival: Redlock, heard: Events) -> None:
    lease = leased(rival, NAME, renew=True)
    with waiting(client, "first", "second", "third"):
        assert [fields["position"] for event, fields in heard if event == "waiting"] == [1, 2, 3]
        assert len(client._context.waits.pending()) == 3
        lease.release()
    assert not client._context.waits.pending()


def test_the_nodes_report_each_waiter_until_its_end(nodes: Cluster, client: Redlock, rival: Redlock) -> None:
    lease = leased(rival, NAME, owner_label="holder", renew=True)
    with waiting(client, "first", "second"):
        expected = [("first", 1, "holder"), ("second", 2, "holder")]
        eventually(lambda: seen(nodes) == expected, "both waiters", every=0.1)
        (held,) = cluster_status(nodes.urls, timeout=5.0).locks
        assert held.waiters == 2
        assert seen(nodes, "other:") == [], "another project on the same nodes sees other waiters"
        lease.release()
    eventually(lambda: not seen(nodes), "the end of the waits", every=0.1)


def test_a_waiter_is_reported_where_its_node_goes_down(nodes: Cluster, client: Redlock, rival: Redlock) -> None:
    lease = leased(rival, NAME, owner_label="holder", renew=True)
    node = client._context.waiters.node_for((NAME,))
    assert node is not None
    with waiting(client, "waiter"):
        eventually(lambda: seen(nodes) == [("waiter", 1, "holder")], "the waiter", every=0.1)
        next(server for server in nodes.servers if label(server) == node.label).kill()
        eventually(lambda: seen(nodes) == [("waiter", 1, "holder")], "the waiter on another node", every=0.1)
        lease.release()


def test_redlock_run_is_a_waiter_until_it_is_killed(nodes: Cluster, rival: Redlock, tmp_path: Path) -> None:
    with rival.lock(NAME):
        command = [sys.executable, "-m", "redlock", "run", NAME, "--nodes", ",".join(nodes.urls), "--", "true"]
        with subprocess.Popen(command, cwd=tmp_path) as process:
            eventually(lambda: [name for name, _, _ in seen(nodes) if name.startswith("true[")], "it", every=0.1)
            process.kill()
        eventually(lambda: not seen(nodes), "the end of its report", every=0.2)


def test_status_lists_waiters(nodes: Cluster, client: Redlock, rival: Redlock) -> None:
    lease = leased(rival, NAME, owner_label="holder", renew=True)
    with waiting(client, "waiter"):
        eventually(lambda: seen(nodes), "the waiter", every=0.1)
        *_, heading, line = table(cluster_status(nodes.urls, timeout=5.0)).splitlines()
        lease.release()
    assert heading.split() == ["WAITED", "FOR", "POSITION", "WAITER", "SINCE", "HOLDER"]
    assert line.split()[:3] == [NAME, "1", "waiter"]
    assert line.split()[4] == "holder"


def test_a_client_that_never_waits_reports_nothing(nodes: Cluster, client: Redlock) -> None:
    for _ in range(3):
        with client.lock(NAME):
            pass
    for redis in raws(nodes.servers):
        assert not list(redis.scan_iter(f"{wait_report.KEY}*"))


def test_a_wait_does_not_need_the_thread_that_reports_it(client: Redlock, rival: Redlock) -> None:
    with rival.lock(NAME), no_thread("redlock-waits"), pytest.raises(LockContended):
        client.lease(NAME).acquire(50)


def test_a_flood_of_empty_reports_is_cut(nodes: Cluster) -> None:
    """The node runs nothing else while it reads the reports, and a page reads them once a second."""
    with raw(nodes[0]) as redis:
        for period in range(2):
            key = f"{wait_report.KEY}{int(redis.time()[0]) // wait_report.PERIOD_SECONDS + period}"
            redis.hset(key, mapping={"count": 20_000, **{str(place): "" for place in range(1, 20_001)}})
        assert len(redis.execute_command(*wait_report.read_command())) < 12_000


def test_a_flood_of_waiters_is_cut_and_said_to_be_more(nodes: Cluster, client: Redlock) -> None:
    rows = [[[NAME], f"waiter-{number:04}", time.time()] for number in range(300)]

    def flooded(resources: int) -> ClusterStatus | None:
        """The status after a report; None if the report was too old by then."""
        for redis in raws(nodes.servers):
            redis.execute_command(*wait_report.write_command("process", json.dumps(rows)))
        status = cluster_status(nodes.urls, timeout=5.0, resources=resources)
        return status if status.waiters else None

    with client.lock(NAME):
        seen = eventually(lambda: flooded(20), "waiters")
        assert seen is not None
        assert len(seen.waiters) == 100
        assert seen.more
        assert [lock.waiters for lock in seen.locks] == [300], "all are counted"
        everything = eventually(lambda: flooded(60), "waiters")
        assert everything is not None
        assert len(everything.waiters) == 300
        assert not everything.more

"""The worked example in real containers, with killed workers and Redis servers."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json

import pytest

from redlock import Redlock
from tests.compose.counter import Counter
from tests.compose.project import Project
from tests.integration import tools
from workers.settings import Settings

# Minutes, because an image is built and the tasks of a killed worker must come back.
pytestmark = pytest.mark.timeout(1200)

PATIENCE = 300.0
TASKS = 150


eventually = functools.partial(tools.eventually, within=PATIENCE, every=0.2)


def flower(path: str) -> str:
    """The reply of Flower; empty without a reply."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", 5555, timeout=10)) as connection:
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException):
            return ""


def test_everything_comes_up_and_is_healthy(project: Project) -> None:
    eventually(project.is_healthy, "every container to be healthy")
    services = [container["Config"]["Labels"]["com.docker.compose.service"] for container in project.inspect()]
    assert sorted(services) == ["broker", "flower", *(f"lock{n}" for n in range(1, 6)), *["worker"] * 4]


def test_flower_shows_four_workers_with_different_names(project: Project) -> None:
    eventually(lambda: flower("/healthcheck") == "OK", "Flower to answer")
    online = {f'flower_worker_online{{worker="worker@{worker[:12]}"}} 1.0' for worker in project.containers("worker")}
    assert len(online) == 4
    eventually(lambda: online <= set(flower("/metrics").splitlines()), "Flower to see all workers")


def test_flower_shows_the_locks_and_the_lock_nodes(project: Project) -> None:
    assert project.containers("flower")
    # Without a setting, as from any shell on the host; brand-new nodes abstain at first.
    with Redlock() as client, client.lock("from the host"):
        shown = json.loads(flower("/locks/data"))
        assert "from the host" in [lock["resource"] for lock in shown["locks"]]
    assert [(node["name"], node["health"]) for node in shown["nodes"]] == [
        (f"lock{n}:6379", "votes") for n in range(1, 6)
    ]
    assert 'id="locks-page"' in flower("/locks")


def test_no_process_in_any_container_is_root_or_can_become_it(project: Project) -> None:
    for container in project.containers():
        users = project.processes(container, "Uid")
        assert users, f"no process in container {container[:12]}"
        assert "0" not in users
        assert project.processes(container, "CapEff") == {"0" * 16}
        assert project.processes(container, "NoNewPrivs") == {"1"}


def test_every_container_is_confined_and_on_loopback_only(project: Project) -> None:
    for container in project.inspect():
        host, name = container["HostConfig"], container["Name"]
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"], name
        assert not host["CapAdd"], name
        assert "no-new-privileges:true" in host["SecurityOpt"], name
        assert host["Memory"] > 0, name
        assert host["PidsLimit"] > 0, name
        published = [port["HostIp"] for ports in (host["PortBindings"] or {}).values() for port in ports]
        assert set(published) <= {"127.0.0.1"}, name
        assert not host["Privileged"], name
        assert host["NetworkMode"] != "host", name
        volumes = [mount["Destination"] for mount in container["Mounts"] if mount["Type"] == "volume"]
        assert volumes == (["/data"] if "broker" in name else []), name


def test_a_stopped_worker_has_time_to_end_its_tasks(project: Project) -> None:
    limits = {container["Config"]["StopTimeout"] for container in project.inspect("worker")}
    assert min(limits) > Settings().time_limit


def test_workers_keep_their_events_in_a_file_and_on_the_console(project: Project, counter: Counter) -> None:
    counter.send(1)
    eventually(counter.is_done, "the task to be done")
    (task,) = counter.ids
    acquired = [line for line in project.events().splitlines() if task in line and "acquired" in line]
    assert acquired
    assert acquired[0] in project.console()


def test_killed_nodes_and_workers_lose_no_increment(project: Project, counter: Counter) -> None:
    counter.send(TASKS)
    eventually(lambda: counter.value() >= 10, "the first ten increments")
    project.kill(project.containers("lock3")[0])
    eventually(lambda: counter.value() >= 30, "twenty more without the lock node")
    worker = project.containers("worker")[0]
    project.kill(worker)
    assert counter.in_hand_of(worker), "the killed worker had nothing in hand, so nothing was put to the test"
    eventually(counter.is_done, "every task to end")
    assert counter.outcomes() == list(range(1, TASKS + 1))
    assert counter.value() == TASKS


def test_workers_start_and_count_with_two_nodes_down(project: Project, counter: Counter) -> None:
    project.compose("up", "--detach", "--no-deps", "lock3")
    for node in ("lock4", "lock5"):
        project.kill(project.containers(node)[0])
    project.compose("up", "--detach", "--no-deps", "--force-recreate", "--scale", "worker=4", "worker")
    counter.send(8)
    eventually(counter.is_done, "every task to end")
    assert counter.outcomes() == list(range(1, 9))
    eventually(lambda: len(project.containers("worker")) == 4 and project.is_healthy(), "every worker to be healthy")


def test_the_counter_outlives_the_container_that_keeps_it(project: Project, counter: Counter) -> None:
    counter.send(8)
    eventually(counter.is_done, "every task to end")
    project.kill(project.containers("broker")[0])
    project.compose("up", "--detach", "--no-deps", "--force-recreate", "broker")
    eventually(project.is_healthy, "every container to be healthy")
    assert counter.value() == 8
    counter.send(8)
    eventually(counter.is_done, "the workers to go on with the new broker")
    assert counter.outcomes() == list(range(1, 17))

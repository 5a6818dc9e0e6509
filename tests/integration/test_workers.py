"""The worked example and `@locked`, in real Celery workers."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from celery import chain

from redlock import ConfigurationError, LockContended, QuorumUnavailable, Redlock, Stale
from redlock._clock import now_ms
from redlock.testing import redis_server
from redlock.testing.redis_server import free_port
from tests.integration.shell import run_python
from tests.integration.tools import CANARY, client_of, eventually, frozen, raw, sixth_redis
from tests.integration.worker_fixture import Worker, WorkerFixture, shell

POLICIES = "tests.integration.apps.policies"


@pytest.fixture(scope="module")
def fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerFixture]:
    """A set of servers for all tests here; the broker wants a password."""
    with redis_server.cluster() as nodes, sixth_redis() as broker:
        with raw(broker) as redis:
            redis.config_set("requirepass", CANARY)
        with WorkerFixture(nodes, broker, tmp_path_factory.mktemp("workers"), password=CANARY) as fixture:
            yield fixture


@pytest.fixture(scope="module", autouse=True)
def shared_worker(fixture: WorkerFixture) -> Worker:
    """A worker for all tests here, with four processes that think for 50 ms in the middle of an increment."""
    return fixture.start_worker("--include", POLICIES, concurrency=4, COUNTER_THINK="0.05")


@pytest.fixture(scope="module")
def client(fixture: WorkerFixture) -> Iterator[Redlock]:
    """A client of the workers' lock nodes."""
    with client_of(fixture.nodes.urls) as redlock:
        yield redlock


def sent(fixture: WorkerFixture, task: str, name: str, **options: Any) -> str:  # noqa: ANN401 - Celery's options
    """Enqueue a task of `apps/policies.py` and return its id."""
    return fixture.send(f"{POLICIES}.{task}", name, **options)


ENQUEUE = """
import json
from tasks import increment
print(json.dumps([increment.delay(1, name="shell").id for _ in range(20)]))
"""


def test_increments_that_are_enqueued_from_a_shell_all_count(fixture: WorkerFixture) -> None:
    results = fixture.results(shell(fixture, ENQUEUE))

    assert fixture.counter("shell") == 20
    assert sorted(result["value"] for result in results) == list(range(1, 21))
    in_order = sorted(results, key=lambda result: result["value"])
    fences = [result["fence"] for result in in_order]
    assert fences == sorted(set(fences)), "values and tokens grow together"
    assert all(result["waited_ms"] >= 0 for result in results)
    assert any(result["waited_ms"] > 0 for result in results)


def test_the_same_body_without_the_lock_loses_updates(fixture: WorkerFixture) -> None:
    fixture.results([fixture.send("tasks.counter.increment_unlocked", kwargs={"name": "unlocked"}) for _ in range(20)])

    assert 0 < fixture.counter("unlocked") < 20


def test_a_task_that_had_to_wait_says_for_how_long(
    fixture: WorkerFixture, client: Redlock, shared_worker: Worker
) -> None:
    with client.lock("counter:waited") as lease:
        (task,) = fixture.increment("waited")
        eventually(lambda: "waiting resource=counter:waited" in shared_worker.log, "the wait of the task")
        fence = lease.fence

    result = fixture.result(task)

    assert result["value"] == 1
    assert result["waited_ms"] > 0
    assert result["fence"] > fence


def test_an_operation_that_is_named_by_the_business_counts_once(fixture: WorkerFixture) -> None:
    tasks = [
        fixture.send("tasks.counter.increment", kwargs={"name": "named", "op_id": f"order-{number % 3}"})
        for number in range(9)
    ]

    results = fixture.results(tasks)

    assert fixture.counter("named") == 3
    assert {result["value"] for result in results} == {1, 2, 3}


def test_a_message_that_is_delivered_twice_counts_once(fixture: WorkerFixture) -> None:
    tasks = [
        fixture.send("tasks.counter.increment", kwargs={"name": "twice"}, task_id=f"delivery-{number}")
        for number in (1, 2, 1, 2, 1)
    ]

    eventually(fixture.is_idle, "the last of five messages")
    fixture.results(tasks)

    assert fixture.counter("twice") == 2


@pytest.mark.parametrize("by", ["one", "1" * 100_000, 1.5, None, True])
def test_a_bad_argument_fails_the_task_and_leaves_the_counter(fixture: WorkerFixture, by: object) -> None:
    task = fixture.send("tasks.counter.increment", by, "untouched")

    with pytest.raises(ConfigurationError, match=r"^by is .{1,60}; it must be a whole number$"):
        fixture.result(task)

    assert fixture.counter("untouched") == 0


CALLS = """
import json
from tasks import increment
refused = []
for args, kwargs in [(("a", "b", "c", "d"), {}), ((), {"nobody": 1}), ((1,), {"by": 2}), ((1, "hits", "op"), {})]:
    try:
        increment.delay(*args, **kwargs)
    except TypeError as error:
        refused.append(str(error))
print(json.dumps(refused))
"""


def test_wrong_arguments_are_refused_at_the_caller(fixture: WorkerFixture) -> None:
    refused = shell(fixture, CALLS)

    assert len(refused) == 4
    assert "increment()" in refused[0]


BROKER_DOWN = """
import json
from tasks import increment
try:
    increment.delay()
except Exception as error:  # whatever it is, the test reads it
    print(json.dumps([type(error).__module__, type(error).__name__, str(error)]))
"""


@pytest.mark.parametrize(
    ("down", "words"),
    [
        (("BROKER",), "refused"),
        pytest.param(("BROKER", "RESULT"), "the result backend can't be reached", marks=pytest.mark.long),
    ],
    ids=["broker", "both"],
)
def test_an_unreachable_broker_is_an_error_at_the_caller(
    fixture: WorkerFixture, down: tuple[str, ...], words: str
) -> None:
    """Also if the results are in the same Redis, as in the example."""
    # The shell has a time limit; without any of its own the call would try for ever.
    url = f"redis://127.0.0.1:{free_port()}"
    said = shell(fixture, BROKER_DOWN, **{f"COUNTER_{name}_URL": f"{url}/{db}" for db, name in enumerate(down)})

    assert said[:2] == ["kombu.exceptions", "OperationalError"]
    assert words in said[2]


@pytest.mark.parametrize("kind", ["requeue", "requeue_repeated"])
def test_a_requeued_task_keeps_its_identity_and_its_retries(
    fixture: WorkerFixture, client: Redlock, shared_worker: Worker, kind: str
) -> None:
    with client.lock(f"policy:{kind}"):
        task = sent(fixture, kind, kind, headers={"x-trace": "abc"}, priority=3)
        eventually(lambda: fixture.state(task) == "RETRY", "the task back in the queue")
        began_ms = now_ms()
        # More than once: a task with `max_retries=0` that spent one would fail here.
        eventually(lambda: fixture.requeues(task) >= 2, "the task back in the queue for the second time")
        held_ms = now_ms() - began_ms

    result = fixture.result(task)

    assert result["id"] == task
    assert result["retries"] == 0
    assert result["trace"] == "abc"
    assert result["priority"] == 3
    waited_ms = result["waited_ms"]
    assert waited_ms >= held_ms, "since its first delivery"
    assert re.search(rf"acquired resource=policy:{kind} holder='?{task}@.* waited_ms={waited_ms} ", shared_worker.log)
    eventually(fixture.is_idle, "the end of each message", every=0.05)
    assert shared_worker.log.count(f"acquired resource=policy:{kind} ") == 1


def test_a_requeued_task_does_not_sit_in_a_worker_process(fixture: WorkerFixture, client: Redlock) -> None:
    with client.lock("policy:crowd"):
        crowd = [sent(fixture, "requeue", "crowd") for _ in range(8)]
        eventually(lambda: all(fixture.state(task) == "RETRY" for task in crowd), "eight tasks back in the queue")

        # There are four processes, and eight tasks that wait.
        assert fixture.result(sent(fixture, "requeue", "somewhere else"))["retries"] == 0

    results = fixture.results(crowd)
    assert len({result["fence"] for result in results}) == 8


def test_the_last_requeue_fails_with_the_holder(fixture: WorkerFixture, client: Redlock) -> None:
    with client.lock("policy:once") as lease:
        task = sent(fixture, "requeue_once", "once")
        with pytest.raises(LockContended) as caught:
            fixture.result(task)
        owner = lease.owner

    error = caught.value
    assert error.resource == "policy:once"
    assert error.holder is not None
    assert owner[:8] in error.holder
    assert owner[:32] not in str(error)
    assert error.remaining is not None
    assert fixture.requeues(task) == 1


def test_a_run_that_the_store_refused_is_requeued(fixture: WorkerFixture) -> None:
    assert fixture.result(fixture.send(f"{POLICIES}.stale", "refused", 2)) == 3


def test_stale_runs_are_bounded_by_max_requeues(fixture: WorkerFixture) -> None:
    task = fixture.send(f"{POLICIES}.stale", "bounded", 99)

    with pytest.raises(Stale):
        fixture.result(task)

    assert fixture.store.get(f"runs:{task}") == "3"
    assert fixture.requeues(task) == 2


def test_a_skipped_task_returns_a_value_and_the_chain_goes_on(fixture: WorkerFixture, client: Redlock) -> None:
    with client.lock("policy:skipped"):
        app = fixture.sender
        task = chain(app.signature(f"{POLICIES}.skip", ("skipped",)), app.signature(f"{POLICIES}.after")).apply_async()
        result = fixture.result(task.id)["after"]

    assert result["status"] == "skipped"
    assert result["resource"] == "policy:skipped"
    assert result["holder"]


def test_a_chain_goes_on_once_after_a_task_that_was_requeued(fixture: WorkerFixture, client: Redlock) -> None:
    with client.lock("policy:chained"):
        app = fixture.sender
        last = chain(
            app.signature(f"{POLICIES}.requeue", ("chained",)), app.signature(f"{POLICIES}.after")
        ).apply_async()
        first = last.parent.id
        eventually(lambda: fixture.state(first) == "RETRY", "the first task back in the queue")
        assert fixture.state(last.id) == "PENDING"

    assert fixture.result(last.id)["after"]["id"] == first


def test_raise_says_at_once_who_has_the_lock(fixture: WorkerFixture, client: Redlock) -> None:
    with client.lock("policy:failed"), pytest.raises(LockContended) as caught:
        fixture.result(sent(fixture, "fail", "failed"))

    assert caught.value.resource == "policy:failed"
    assert fixture.result(sent(fixture, "fail", "failed"))["retries"] == 0


def test_raise_goes_with_celerys_own_retries(fixture: WorkerFixture, client: Redlock) -> None:
    with client.lock("policy:retried"):
        task = sent(fixture, "retry", "retried")
        eventually(lambda: fixture.state(task) == "RETRY", "the first retry")

    assert fixture.result(task)["retries"] >= 1


def test_a_waiting_task_gets_the_lock_without_a_requeue(
    fixture: WorkerFixture, client: Redlock, shared_worker: Worker
) -> None:
    with client.lock("policy:patient"):
        task = sent(fixture, "wait", "patient")
        eventually(lambda: "waiting resource=policy:patient" in shared_worker.log, "the wait of the task")

    result = fixture.result(task)

    assert result["retries"] == 0
    assert fixture.requeues(task) == 0


def test_no_quorum_is_never_a_skip_and_no_contention(fixture: WorkerFixture) -> None:
    with frozen(*fixture.nodes.servers[:3]):
        for policy in ("skip", "fail"):
            with pytest.raises(QuorumUnavailable) as caught:
                fixture.result(sent(fixture, policy, "no quorum"))
            assert len(caught.value.reasons) == 3
        task = sent(fixture, "requeue", "no quorum")
        eventually(lambda: fixture.state(task) == "RETRY", "the task back in the queue")

    assert fixture.result(task)["id"] == task


class Evil:
    """An object that writes a file on unpickling."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self._path),)


def test_a_pickled_message_is_refused_and_never_opened(
    fixture: WorkerFixture, tmp_path: Path, shared_worker: Worker
) -> None:
    trace = tmp_path / "opened"
    assert pickle.loads(pickle.dumps(Evil(tmp_path / "works"))) is None  # noqa: S301 - it is ours
    assert (tmp_path / "works").exists()

    fixture.send("tasks.counter.increment", kwargs={"by": Evil(trace), "name": "pickled"}, serializer="pickle")

    eventually(lambda: "untrusted content of type pickle" in shared_worker.log, "the refusal in the log")
    assert not trace.exists()
    assert fixture.result(*fixture.increment("pickled"))["value"] == 1


HIDDEN = "hidden-Zk3"


@pytest.mark.parametrize(
    "address",
    [
        f"redis://:{HIDDEN}@127.0.0.1:6379/0",
        f"rediss://user:{HIDDEN}@redis.example.org:6379/0",
        f"redis://:p@ss-{HIDDEN}@127.0.0.1:6379",
        f"redis://:{HIDDEN}@h1:6379/0,redis://:{HIDDEN}@h2:6379/0;redis://:{HIDDEN}@h3",
        f"redis+socket://:{HIDDEN}@/run/redis.sock?virtual_host=0",
        f"unix:///run/redis.sock?db=0&password={HIDDEN}",
    ],
)
def test_a_password_in_an_address_is_masked_in_the_log(
    fixture: WorkerFixture, shared_worker: Worker, address: str
) -> None:
    marker = f"address-{abs(hash(address))}"
    fixture.result(fixture.send(f"{POLICIES}.log", f"{marker} {address} and what follows"))

    def lines() -> list[str]:
        return [line for line in shared_worker.log.splitlines() if marker in line]

    eventually(lambda: len(lines()) >= 2, "the line and the traceback in the log")
    assert not [line for line in lines() if HIDDEN in line]
    assert all("and what follows" in line for line in lines())


WRITE = """
import logging, multiprocessing, sys
from workers import logs

path, writers, lines = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def write(number):
    logs.configure(path, 30_000, console=False)  # as a worker's child does after the fork
    for line in range(lines):
        logging.getLogger("redlock").info("writer %02d line %04d %s", number, line, "x" * 50)

logs.configure(path, 30_000, console=False)
processes = [multiprocessing.get_context("fork").Process(target=write, args=(number,)) for number in range(writers)]
for process in processes:
    process.start()
for process in processes:
    process.join()
sys.exit(max(process.exitcode for process in processes))
"""


def written(path: Path) -> Sequence[str]:
    """All lines of a log and its rotated files."""
    return [line for file in path.parent.glob(f"{path.name}*") for line in file.read_text().splitlines()]


def test_processes_that_write_and_rotate_one_log_lose_no_line(tmp_path: Path) -> None:
    path = tmp_path / "logger.log"

    run_python("-c", WRITE, str(path), "6", "150", check=True)

    found = [line.partition("writer ")[2].rpartition(" ")[0] for line in written(path)]
    assert sorted(found) == [f"{number:02d} line {line:04d}" for number in range(6) for line in range(150)]
    assert 3 <= len(list(tmp_path.glob("logger.log*"))) <= 6, "rotated, and not so often that old lines are dropped"


def test_nothing_in_the_workers_log_or_output_is_a_secret(shared_worker: Worker) -> None:
    assert "redis://" in shared_worker.log
    assert CANARY not in shared_worker.log
    assert CANARY not in shared_worker.output.read_text()

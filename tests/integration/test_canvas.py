"""Policies in real workflows: canvases, links, times, beat, and the other ways to write and to call a task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.canvas import Signature, xstarmap
from celery.exceptions import TaskRevokedError
from celery.result import denied_join_result

from redlock import LockContended, Redlock
from redlock.celery import client_for, current_lease, locked
from redlock.celery.conflict_policy import OnConflict
from tests.integration.tools import client_of, eventually, unsubscribe
from tests.integration.worker_fixture import Worker, WorkerFixture, fresh_fixture
from tests.versions import needs_celery_5_6

FLOWS = "tests.integration.apps.workflows"
POLICIES = "tests.integration.apps.policies"
PERIODIC = "tests.integration.apps.periodic"
HELD = "policy:held"


@pytest.fixture(scope="module")
def fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerFixture]:
    with fresh_fixture(tmp_path_factory.mktemp("canvas")) as fixture:
        yield fixture


@pytest.fixture(scope="module", autouse=True)
def shared_worker(fixture: WorkerFixture) -> Worker:
    """A worker for all tests here; it listens on two queues."""
    return fixture.start_worker("--include", FLOWS, "-Q", "celery,side", concurrency=4)


@pytest.fixture(scope="module")
def client(fixture: WorkerFixture) -> Iterator[Redlock]:
    """A client of the workers' lock nodes."""
    with client_of(fixture.nodes.urls) as redlock:
        yield redlock


class Flow:
    """Makes signatures of the workers' tasks; results are kept, so that canvases can be made of them."""

    def __init__(self, fixture: WorkerFixture, client: Redlock) -> None:
        self.fixture, self.client = fixture, client
        self.app = Celery(
            "canvas", broker=fixture.sender.conf.broker_url, backend=fixture.environment["COUNTER_RESULT_URL"]
        )

    def __call__(self, task: str, *args: object, **options: Any) -> Signature:  # noqa: ANN401 - Celery's options
        module = POLICIES if task in {"requeue_once", "replaced", "skip"} else FLOWS
        return self.app.signature(f"{module}.{task}", args, app=self.app, **options)

    def starmap(self, task: str, *calls: str) -> Signature:
        """A task that calls another for each of these."""
        return xstarmap(self(task), [(call,) for call in calls], app=self.app)

    def requeued(self, signature: Signature, **options: Any) -> str:  # noqa: ANN401 - as above
        """The id of a task that went back to the queue because somebody had its lock; the lock is free again."""
        with self.client.lock(HELD):
            task: str = signature.apply_async(**options).id
            is_back(self.fixture, task)
        return task


@pytest.fixture
def flow(fixture: WorkerFixture, client: Redlock) -> Iterator[Flow]:
    """A sender of canvases."""
    flow = Flow(fixture, client)
    # Else each result would be subscribed to.
    with denied_join_result():
        yield flow
    # Groups subscribe all the same.
    unsubscribe(flow.app.backend)
    flow.app.close()


def is_back(fixture: WorkerFixture, task: str) -> None:
    """Come back when a task has gone back to the queue."""
    eventually(lambda: fixture.requeues(task) >= 1, f"task {task} back in the queue")


def test_a_group_has_all_its_parts_requeued_or_skipped(fixture: WorkerFixture, client: Redlock, flow: Flow) -> None:
    with client.lock(HELD):
        parts = group(flow("requeue", "held"), flow("skip", "held"), flow("requeue", "other")).apply_async()
        first, second, third = (part.id for part in parts)
        is_back(fixture, first)
        assert fixture.result(second)["status"] == "skipped"
        assert fixture.result(third)["retries"] == 0
    assert fixture.result(first)["id"] == first


def test_a_chain_of_locked_tasks_runs_in_order_through_requeues(
    fixture: WorkerFixture, client: Redlock, flow: Flow
) -> None:
    with client.lock(HELD):
        steps = chain(*(flow("requeue", "held", immutable=True) for _ in range(3))).apply_async()
        first, second, third = steps.parent.parent.id, steps.parent.id, steps.id
        is_back(fixture, first)
        assert fixture.state(second) == "PENDING"
    fences = [fixture.result(task)["fence"] for task in (first, second, third)]
    assert fences == sorted(set(fences))


def test_a_chord_ends_once_with_the_results_in_order(
    fixture: WorkerFixture, client: Redlock, flow: Flow, shared_worker: Worker
) -> None:
    with client.lock("policy:chord"):
        header = [flow("requeue", "chord"), flow("skip", "chord"), flow("requeue", "free"), flow("requeue", "chord")]
        end = chord(header, flow("gather")).apply_async()
        eventually(lambda: fixture.was_requeued("policy:chord"), "a part back in the queue")
        eventually(lambda: "skipped resource=policy:chord" in shared_worker.log, "the part that is skipped")
        assert fixture.state(end.id) == "PENDING"
    first, skipped, free, last = fixture.result(end.id)["gathered"]
    assert skipped["status"] == "skipped"
    assert [part["retries"] for part in (first, free, last)] == [0] * 3
    assert len({first["fence"], free["fence"], last["fence"]}) == 3


def test_a_task_may_replace_itself_by_another_with_its_lock(
    fixture: WorkerFixture, client: Redlock, flow: Flow
) -> None:
    with client.lock(HELD):
        last = chain(flow("replaced", "held"), flow("requeue", "next", immutable=True)).apply_async()
        first = last.parent.id
        is_back(fixture, first)
        assert fixture.state(last.id) == "PENDING"
    assert fixture.result(first)["id"] == first
    assert fixture.result(last.id)["id"] == last.id


def test_a_task_that_is_revoked_on_its_way_back_never_runs(fixture: WorkerFixture, client: Redlock, flow: Flow) -> None:
    with client.lock(HELD):
        task = flow("requeue", "held").apply_async().id
        is_back(fixture, task)
        fixture.sender.control.revoke(task)
        eventually(lambda: fixture.state(task) == "REVOKED", "the end of the task")
    later = flow("requeue", "held").apply_async().id
    assert fixture.result(later)["id"] == later
    assert fixture.state(task) == "REVOKED"


def test_a_part_of_a_chord_that_gives_up_fails_the_chord(fixture: WorkerFixture, client: Redlock, flow: Flow) -> None:
    with client.lock(HELD):
        end = chord([flow("requeue_once", "held"), flow("skip", "free")], flow("gather")).apply_async()
        with pytest.raises(Exception, match=r"LockContended|not free"):
            fixture.result(end.id)


def test_starmap_takes_the_lock_for_each_of_its_calls(fixture: WorkerFixture, client: Redlock, flow: Flow) -> None:
    with client.lock(HELD):
        calls = flow.starmap("wait", "free", "held", "held").apply_async()
        eventually(lambda: fixture.state(calls.id) == "STARTED", "the calls under way")
        skipped = flow.starmap("skip", "free", "held").apply_async()
        assert fixture.result(skipped.id)[1]["status"] == "skipped"
    (first, _), (second, fence), (third, last) = fixture.result(calls.id)
    assert [first, second, third] == ["free", "held", "held"]
    assert last > fence


def test_a_call_inside_of_starmap_raises_instead_of_a_requeue(
    fixture: WorkerFixture, client: Redlock, flow: Flow
) -> None:
    with client.lock(HELD):
        calls = flow.starmap("requeue", "held").apply_async()
        with pytest.raises(LockContended):
            fixture.result(calls.id)


def test_links_are_called_once_after_a_requeue(fixture: WorkerFixture, flow: Flow, shared_worker: Worker) -> None:
    task = flow.requeued(flow("requeue", "held"), link=flow("note", "linked", immutable=True))
    fixture.result(task)
    eventually(lambda: "noted linked" in shared_worker.log, "the link")
    eventually(fixture.is_idle, "the end of everything")
    assert shared_worker.log.count("noted linked") == 1


@pytest.mark.parametrize("ending", [("fail", "ValueError"), ("requeue_once", "LockContended")], ids=["body", "lock"])
def test_an_errback_hears_of_the_end_after_a_requeue(
    fixture: WorkerFixture, client: Redlock, flow: Flow, shared_worker: Worker, ending: tuple[str, str]
) -> None:
    task, error = ending
    with client.lock(HELD):
        sent = flow(task, "held").apply_async(link_error=flow("note"))
        is_back(fixture, sent.id)
        if error == "LockContended":
            eventually(lambda: fixture.state(sent.id) == "FAILURE", "the end of its patience")
    eventually(lambda: f"noted {sent.id}" in shared_worker.log, "the errback")
    eventually(fixture.is_idle, "the end of everything")
    assert shared_worker.log.count(f"noted {sent.id}") == 1
    assert type(fixture.failure(sent.id)).__name__ == error


def test_queue_and_time_limits_are_kept(fixture: WorkerFixture, flow: Flow) -> None:
    task = flow.requeued(flow("requeue", "held"), queue="side", time_limit=77, soft_time_limit=55)
    result = fixture.result(task)
    assert result["queue"] == "side"
    assert result["time_limit"] == [77, 55]


def test_the_state_of_a_requeued_task_names_the_holder(fixture: WorkerFixture, client: Redlock, flow: Flow) -> None:
    with client.lock(HELD) as lease:
        task = flow("requeue", "held").apply_async()

        def why_it_went_back() -> object:
            """The error in its state; no error while the task runs again."""
            return isinstance(error := fixture.failure(task.id), LockContended) and error

        why = eventually(why_it_went_back, "the task back in the queue")
        assert isinstance(why, LockContended)
        assert why.resource == HELD
        assert lease.owner[:8] in str(why.holder)
    fixture.result(task.id)


@pytest.mark.parametrize("options", [{"countdown": 0.2}, {"expires": 600}], ids=["eta", "later expiry"])
def test_a_task_with_a_time_comes_back_in_time(fixture: WorkerFixture, flow: Flow, options: dict[str, float]) -> None:
    task = flow.requeued(flow("requeue", "held"), **options)
    assert fixture.result(task)["retries"] == 0


def test_a_task_about_to_expire_fails_with_the_holder(fixture: WorkerFixture, client: Redlock, flow: Flow) -> None:
    def fails() -> bool:
        task = flow("requeue", "held").apply_async(expires=4)
        with pytest.raises(LockContended):
            fixture.result(task.id)
        return fixture.requeues(task.id) >= 1

    with client.lock(HELD):
        # On a machine that stands still for a second the message arrives after its expiry.
        eventually(fails, "a task that gives up before its expiry", despite=TaskRevokedError)


@pytest.mark.parametrize("way", ["Charge", "shared"])
def test_a_task_may_be_a_class_or_belong_to_no_app(fixture: WorkerFixture, flow: Flow, way: str) -> None:
    task = flow.requeued(flow(way, "held"))
    assert fixture.result(task)["id"] == task


# Celery 5.5 reads no annotations that are strings.
@needs_celery_5_6
def test_a_task_may_take_and_give_pydantic_models(fixture: WorkerFixture, flow: Flow) -> None:
    task = flow.requeued(flow("pay", {"account": "held", "amount": 5}))
    assert fixture.result(task) == {"account": "held", "amount": 6}


def test_a_task_that_calls_itself_is_not_requeued_by_the_call(
    fixture: WorkerFixture, client: Redlock, flow: Flow
) -> None:
    assert fixture.result(flow("call_itself", ["a", "b"]).apply_async().id) == "ab"
    with client.lock(HELD):
        task = flow("call_itself", ["a", "held"]).apply_async()
        with pytest.raises(LockContended):
            fixture.result(task.id)
    assert fixture.requeues(task.id) == 0


@pytest.mark.long
def test_a_periodic_task_that_skips_does_not_pile_up(fixture: WorkerFixture, tmp_path: Path) -> None:
    arguments = ["-A", PERIODIC, "worker", "-B", "-s", str(tmp_path / "schedule"), "-c", "4", "-Q", "celery"]
    with Worker(tmp_path, fixture.environment, arguments) as worker:
        eventually(lambda: fixture.store.llen("at-it") >= 4, "four reports", every=0.05)
        eventually(lambda: worker.log.count("skipped resource=periodic:report") >= 4, "four that were left out")
        assert set(fixture.store.lrange("at-it", 0, -1)) == {"1"}, "one at a time"
        assert "LockContended" not in worker.log


class Here:
    def __init__(self, nodes: list[str]) -> None:
        self.app = Celery("here", broker="memory://", set_as_current=False)
        self.app.conf.update(redlock_nodes=nodes, redlock_node_timeout=0.9)
        self.requeue = self._task("requeue")
        self.skip = self._task("skip")

    def _task(self, on_conflict: OnConflict) -> Any:  # noqa: ANN401 - Celery is untyped
        @self.app.task(name=on_conflict, shared=False)
        @locked("policy:{name}", wait=0.02, on_conflict=on_conflict)
        def run(name: str) -> int:  # noqa: ARG001 - names the lock
            return current_lease().fence

        return run


@pytest.fixture
def here(fixture: WorkerFixture) -> Iterator[Here]:
    """An app in this process, on the workers' lock nodes."""
    here = Here(fixture.nodes.urls)
    yield here
    client_for(here.app).close()
    here.app.close()


def test_a_task_that_is_called_or_applied_takes_the_lock(here: Here, client: Redlock) -> None:
    fences = [here.requeue("free"), here.requeue.apply(("free",)).get(), here.requeue("free")]
    assert fences == sorted(set(fences))
    assert client.holder("policy:free") is None


def test_a_direct_or_eager_call_raises_instead_of_a_requeue(here: Here, client: Redlock) -> None:
    with client.lock(HELD):
        with pytest.raises(LockContended):
            here.requeue("held")
        applied = here.requeue.apply(("held",))
        assert applied.state == "FAILURE"
        assert isinstance(applied.result, LockContended)


def test_a_task_that_is_called_or_applied_may_skip(here: Here, client: Redlock) -> None:
    with client.lock(HELD):
        assert here.skip("held")["status"] == "skipped"
        assert here.skip.apply(("held",)).get()["status"] == "skipped"

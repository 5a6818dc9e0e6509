"""Real Celery workers on real nodes, with a sender of tasks and a reader of results."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from celery import Celery
from redis import Redis
from typing_extensions import Self

from redlock.testing import redis_server
from redlock.testing.redis_server import Cluster, Server, die_with_parent
from tests.integration.processes import children
from tests.integration.tools import PATIENT, ROOT, eventually, sixth_redis
from tests.integration.warm_start import ForkedProgram, can_fork

UNLIMITED: Any = {"COUNTER_TIME_LIMIT": "700", "COUNTER_VISIBILITY_TIMEOUT": "800"}
"""Settings of a worker whose tasks run until the end of the test. By default a time limit ends a task after 24 s."""


class Worker:
    def __init__(self, directory: Path, environment: dict[str, str], arguments: Sequence[str]) -> None:
        self.log_file = directory / "logger.log"
        self.output = directory / "output"
        # A killed worker leaves temporary files.
        environment = environment | {"COUNTER_LOG_FILE": str(self.log_file), "TMPDIR": str(directory)}
        self.process = (
            ForkedProgram("celery", arguments, environment=environment, folder=ROOT, output=self.output)
            if can_fork(arguments, environment)
            else self._new_interpreter(arguments, environment)
        )

    def _new_interpreter(self, arguments: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with self.output.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "celery", *arguments],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one prctl: a killed test run leaves nothing behind
            )

    @property
    def log(self) -> str:
        """The whole log, older files first."""
        files = sorted(self.log_file.parent.glob("logger.log*"), key=lambda path: path.name, reverse=True)
        return "".join(path.read_text() for path in files)

    def wait_until_ready(self) -> None:
        """Wait until the worker takes tasks."""
        eventually(lambda: " ready." in self.log or self.process.poll() is not None, "a worker that is ready")
        assert self.process.poll() is None, self.output.read_text()

    @property
    def child(self) -> int:
        """The process id of the only pool process."""
        (pid,) = children(self.process.pid)
        return pid

    def signal(self, number: int) -> None:
        """Send a signal to all processes of the worker."""
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """Kill all processes of the worker."""
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class WorkerFixture:
    """Lock nodes, a broker and workers, with a sender of tasks and a reader of results."""

    def __init__(self, nodes: Cluster, broker: Server, directory: Path, *, password: str = "") -> None:
        secret = f":{password}@" if password else ""
        address = broker.url.replace("redis://", f"redis://{secret}")
        self.nodes, self.broker = nodes, broker
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("REDLOCK_", "COUNTER_"))
        } | {
            "REDLOCK_NODES": ",".join(nodes.urls),
            "REDLOCK_NODE_TIMEOUT": PATIENT,
            "COUNTER_BROKER_URL": f"{address}/0",
            "COUNTER_RESULT_URL": f"{address}/1",
            "COUNTER_STORE_URL": f"{address}/2",
        }
        self._directory = directory
        self._workers: list[Worker] = []
        # Two apps, because a sender with a result backend subscribes to each result.
        self.sender = Celery("sender", broker=f"{address}/0", backend="disabled://", set_as_current=False)
        self._results = Celery("results", backend=f"{address}/1", set_as_current=False).backend
        self.store = Redis.from_url(f"{address}/2", decode_responses=True)

    def start_worker(self, *extra: str, concurrency: int = 1, **settings: str) -> Worker:
        worker = self.hire(*extra, concurrency=concurrency, **settings)
        worker.wait_until_ready()
        return worker

    def hire(self, *extra: str, concurrency: int = 1, **settings: str) -> Worker:
        """Start a worker without waiting."""
        number = len(self._workers)
        directory = self._directory / f"worker-{number}"
        directory.mkdir()
        arguments = ["-A", "workers.app", "worker", "-n", f"w{number}@%h", "-c", str(concurrency)]
        arguments += ["--without-gossip", "--without-mingle", "--without-heartbeat", *extra]
        worker = Worker(directory, self.environment | settings, arguments)
        self.adopt(worker)
        return worker

    def adopt(self, worker: Worker) -> None:
        """Kill this worker too at the end."""
        self._workers.append(worker)

    def send(self, task: str, *args: object, **options: Any) -> str:  # noqa: ANN401 - Celery's options
        return str(self.sender.send_task(task, args, **options).id)

    def increment(self, name: str, times: int = 1) -> list[str]:
        """Enqueue increments of a counter; their ids."""
        return [self.send("tasks.counter.increment", kwargs={"name": name}) for _ in range(times)]

    def state(self, task_id: str) -> str:
        """The state of a task: PENDING, STARTED, RETRY, SUCCESS, ..."""
        return str(self._results.get_task_meta(task_id, cache=False)["status"])

    def result(self, task_id: str) -> Any:  # noqa: ANN401 - whatever the task returns
        """The result of a task; raises the task's own exception."""

        def end() -> dict[str, Any]:
            """The final state; later a copy can hide it for a moment."""
            meta: dict[str, Any] = self._results.get_task_meta(task_id, cache=False)
            return meta if meta["status"] in {"SUCCESS", "FAILURE", "REVOKED"} else {}

        meta = eventually(end, f"the end of task {task_id}")
        if meta["status"] != "SUCCESS":
            raise meta["result"] from RuntimeError(meta["traceback"])
        return meta["result"]

    def failure(self, task_id: str) -> object:
        """The error in a task's state: the reason of the failure or the retry."""
        return self._results.get_task_meta(task_id, cache=False)["result"]

    def results(self, task_ids: Iterable[str]) -> list[Any]:
        return [self.result(task_id) for task_id in task_ids]

    def requeues(self, task_id: str) -> int:
        """How often a task went back to the queue without its lock, by the workers' logs."""
        return sum(f"requeued task={task_id} " in line for line in self._log_lines())

    def was_requeued(self, resource: str) -> bool:
        """Whether any task went back to the queue without this lock."""
        return any("requeued task=" in line and f"resource={resource} " in line for line in self._log_lines())

    def _log_lines(self) -> list[str]:
        return [line for worker in self._workers for line in worker.log.splitlines()]

    def is_idle(self) -> bool:
        """Whether the queue is empty and no worker has a message.

        Kombu takes a message off the queue with BRPOP and records the message a moment later. In between only the
        connection shows the message: the last command is a BRPOP that is no longer blocked.
        """
        with self.sender.connection_for_read() as connection:
            redis = connection.default_channel.client
            # In a single transaction; otherwise a message on its way back to the queue could be missed.
            waiting, unacked, clients = redis.pipeline().llen("celery").hlen("unacked").client_list().execute()
        taking = any(client["cmd"] == "brpop" and "b" not in client["flags"] for client in clients)
        return not (waiting or unacked or taking)

    def unacknowledged(self) -> int:
        """The number of messages that workers have and did not acknowledge."""
        with self.sender.connection_for_read() as connection:
            return int(connection.default_channel.client.hlen("unacked"))

    def task_locks(self, task_id: str = "") -> list[dict[str, Any]]:
        """The locks of tasks that the workers report, or those of one task."""
        answers = self.sender.control.inspect(timeout=5, limit=1)._request("locks") or {}
        return [lock for answer in answers.values() for lock in answer if task_id in {"", lock["task"]}]

    def counter(self, name: str) -> int:
        return int(self.store.hget(f"store:{name}", "value") or 0)

    def is_inside(self, name: str) -> bool:
        """Whether a task has read this counter and not yet written it."""
        return bool(self.store.hget(f"store:{name}", "open"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.kill()
        self.sender.close()
        self._results.client.close()
        self.store.close()


@contextlib.contextmanager
def fresh_fixture(directory: Path) -> Iterator[WorkerFixture]:
    """A fixture with its own servers and without workers."""
    with redis_server.cluster() as nodes, sixth_redis() as broker, WorkerFixture(nodes, broker, directory) as fixture:
        yield fixture


def shell(fixture: WorkerFixture, code: str, **settings: str) -> Any:  # noqa: ANN401 - what the code prints as JSON
    """Run this code in a Python shell with the example's settings and return the printed JSON."""
    with tempfile.TemporaryDirectory() as directory:
        output, errors = Path(directory) / "output", Path(directory) / "errors"
        environment = fixture.environment | settings
        program = ForkedProgram(
            "tests.integration.apps.statement",
            [code],
            environment=environment,
            folder=ROOT,
            output=output,
            errors=errors,
        )
        assert program.wait(200) == 0, errors.read_text()
        return json.loads(output.read_text())


def refuses_to_start(directory: Path, environment: dict[str, str], *arguments: str) -> str:
    """The output of a worker that must not start. Asserts an end with an error status and without a traceback."""
    with Worker(directory, environment, arguments) as worker:
        assert worker.process.wait(200) != 0
        said = worker.output.read_text()
        assert "Traceback" not in said
        return said

"""A counter of the worked example, as a user on the host sees the counter: tasks from a shell, its value in Redis."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from redis import Redis

from redlock.fencing import FencedStore
from tests.compose.project import ROOT, clean_environment, run

SEND = """
import sys
from tasks import increment
for _ in range(int(sys.argv[1])):
    print(increment.delay(name=sys.argv[2]).id)
"""

SEND_AGAIN = """
import sys
from tasks import increment
for task_id in sys.argv[2:]:
    increment.apply_async(kwargs={"name": sys.argv[1]}, task_id=task_id)
"""

SEND_ON = """
import select, sys
from tasks import increment
while not select.select([sys.stdin], [], [], float(sys.argv[2]))[0]:
    print(increment.delay(name=sys.argv[1]).id, flush=True)
"""


class Counter:
    """A counter: `increment.delay()` raises its value, and the sixth Redis has the value."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ids: list[str] = []
        self._broker = Redis(port=63790, db=0, decode_responses=True)
        self._results = Redis(port=63790, db=1, decode_responses=True)
        self._store = Redis(port=63790, db=2, decode_responses=True)

    def close(self) -> None:
        self._broker.close()
        self._results.close()
        self._store.close()

    def send(self, increments: int) -> None:
        sent = run(sys.executable, "-c", SEND, str(increments), self.name, environment=clean_environment())
        self.ids += sent.stdout.split()

    def send_again_what_the_broker_forgot(self) -> None:
        """Enqueue each task again that has not begun and whose message the broker has lost, with its old id.

        kombu's Redis transport records a message as unacknowledged only after a blocking read. A message that Redis
        sends to a closing connection is lost.
        """
        if not self._broker.llen("celery") and not self._broker.hlen("unacked"):
            forgotten = [task_id for task_id, task in self._looked_up().items() if task["status"] == "PENDING"]
            if forgotten:
                run(sys.executable, "-c", SEND_AGAIN, self.name, *forgotten, environment=clean_environment())

    @contextlib.contextmanager
    def traffic(self, every: float) -> Iterator[None]:
        """Enqueue one increment `every` so many seconds during the block; the broker must be up."""
        with subprocess.Popen(
            [sys.executable, "-c", SEND_ON, self.name, str(every)],
            cwd=ROOT,
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as sender:
            assert sender.stdin is not None
            assert sender.stdout is not None
            said = sender.stdout
            # Each at once, so that other threads see each task.
            reader = threading.Thread(target=lambda: self.ids.extend(line.strip() for line in said))
            reader.start()
            try:
                yield
            finally:
                sender.stdin.close()
                reader.join()
        assert sender.returncode == 0, "the sender met an error, see above"

    def is_inside(self, container: str) -> bool:
        """Whether a container's worker has read the counter and not yet written the new value."""
        owner, opened = self._store.hmget(f"store:{self.name}", "owner", "open")
        return bool(opened) and f"@worker@{container[:12]}" in str(owner)

    def value(self) -> int:
        return int(FencedStore(self._store).read_unfenced(self.name) or 0)

    def tasks(self) -> list[dict[str, Any]]:
        """The results of the tasks, in the order of sending."""
        return list(self._looked_up().values())

    def _looked_up(self) -> dict[str, dict[str, Any]]:
        ids = list(self.ids)
        stored = self._results.mget([f"celery-task-meta-{task_id}" for task_id in ids])
        found = [{"status": "PENDING", "result": None} if meta is None else json.loads(meta) for meta in stored]
        return dict(zip(ids, found, strict=True))

    def in_hand_of(self, container: str) -> list[str]:
        """The tasks that a container's worker has begun and not ended."""
        return [
            task_id
            for task_id, task in self._looked_up().items()
            if task["status"] == "STARTED" and task["result"]["hostname"] == f"worker@{container[:12]}"
        ]

    def is_done(self) -> bool:
        """Whether every task has ended, well or not."""
        return all(task["status"] in {"SUCCESS", "FAILURE", "REVOKED"} for task in self.tasks())

    def outcomes(self) -> list[object]:
        """The numbers that the tasks counted, in order; errors at the end."""
        tasks = self.tasks()
        numbers = sorted(task["result"]["value"] for task in tasks if task["status"] == "SUCCESS")
        return numbers + [task for task in tasks if task["status"] != "SUCCESS"]

"""A crew of Celery workers whose dead members are replaced, and the outcome of a run of tasks under faults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.integration.worker_fixture import Worker


class Outcome(NamedTuple):
    """The result of a run.

    Attributes:
        figures: The number of tasks and faults of each kind.
        violations: The violations as text.
    """

    figures: Counter[str]
    violations: list[str]

    def report(self, headline: str) -> int:
        """Print the outcome; the exit status."""
        print(headline)
        for name, value in sorted(self.figures.items()):
            print(f"  {name:<36}{value:>8}")
        for what in self.violations[:20]:
            print(f"  VIOLATION {what}")
        print(f"  {'OK' if not self.violations else f'FAILED: {len(self.violations)} violations'}", flush=True)
        return int(bool(self.violations))


class Crew:
    """Workers of one app.

    Args:
        app: The module of the app.
        directory: Where the workers keep their logs.
        environment: The environment of the workers.
        workers: The number of workers.
        children: The number of processes of each worker.
    """

    def __init__(self, app: str, directory: Path, environment: dict[str, str], *, workers: int, children: int) -> None:
        self._app, self._directory, self._environment = app, directory, environment
        self._size, self._children = workers, children
        self._workers: list[Worker] = []
        self._hired = 0

    def staff(self) -> None:
        """Replace ended workers."""
        for worker in self._workers:
            if worker.process.poll() is not None:
                worker.kill()
        self._workers = [worker for worker in self._workers if worker.process.poll() is None]
        while len(self._workers) < self._size:
            directory = self._directory / f"worker-{self._hired}"
            directory.mkdir(parents=True)
            arguments = ["-A", self._app, "worker", "-n", f"w{self._hired}@%h", "-c", str(self._children), "-l", "INFO"]
            arguments += ["--without-gossip", "--without-mingle", "-f", str(directory / "logger.log")]
            self._workers.append(Worker(directory, self._environment, arguments))
            self._hired += 1

    def wait_until_ready(self) -> None:
        for worker in self._workers:
            worker.wait_until_ready()

    def ready(self) -> list[Worker]:
        """The workers that take tasks."""
        return [worker for worker in self._workers if worker.process.poll() is None and " ready." in worker.log]

    def end(self) -> None:
        for worker in self._workers:
            worker.kill()

    def log(self) -> Iterator[str]:
        """The lines of the logs of all workers, also of those that were replaced."""
        for log in self._directory.glob("worker-*/logger.log"):
            yield from log.read_text().splitlines()

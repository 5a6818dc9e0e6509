"""A running Flower, what it tells a program of tasks and locks, and what its page of tasks shows in a browser."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
from typing import TYPE_CHECKING, Any

from redlock.testing.redis_server import free_port
from tests.integration.tools import eventually
from tests.integration.worker_fixture import Worker

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Self

    from tests.integration.browser import Browser


class Flower:
    """A running Flower with these options."""

    def __init__(self, directory: Path, environment: dict[str, str], *options: str, app: str = "workers.app") -> None:
        self._prefix = next((f"/{one.partition('=')[2]}" for one in options if one.startswith("--url_prefix=")), "")
        port = free_port()
        self._host = f"127.0.0.1:{port}"
        directory.mkdir()
        arguments = ["-A", app, "flower", "--address=127.0.0.1", f"--port={port}", *options]
        self._process = Worker(directory, environment, arguments)

    def __enter__(self) -> Self:
        ended = self._process.process.poll
        eventually(lambda: self.get("/healthcheck")[1] == "OK" or ended() is not None, "Flower", every=0.1)
        assert ended() is None, self._process.output.read_text()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()

    def address(self, path: str, credentials: str = "") -> str:
        """Where a browser finds a page."""
        return f"http://{credentials}{'@' if credentials else ''}{self._host}{self._prefix}{path}"

    def get(self, path: str, credentials: str = "") -> tuple[int, str]:
        """Status and text of an answer; 0 while there is none."""
        headers = {"Authorization": f"Basic {base64.b64encode(credentials.encode()).decode()}"} if credentials else {}
        with contextlib.closing(http.client.HTTPConnection(self._host, timeout=20)) as connection:
            try:
                connection.request("GET", self._prefix + path, headers=headers)
                response = connection.getresponse()
                return response.status, response.read().decode()
            except (OSError, http.client.HTTPException):
                return 0, ""

    def headers(self, path: str) -> http.client.HTTPMessage:
        """The headers of an answer."""
        with contextlib.closing(http.client.HTTPConnection(self._host, timeout=20)) as connection:
            connection.request("GET", self._prefix + path)
            return connection.getresponse().headers

    def task(self, task_id: str) -> dict[str, Any]:
        """All that it tells of a task; nothing before it has heard of it. Its API must be open."""
        status, text = self.get(f"/api/task/info/{task_id}")
        told: dict[str, Any] = json.loads(text) if status == http.HTTPStatus.OK else {}
        return told

    def shows(self, task_id: str, state: str) -> None:
        """Come back when it shows a task in this state."""
        eventually(lambda: self.task(task_id).get("state") == state, f"task {task_id} as {state}", every=0.02)

    def counters(self) -> list[str]:
        """The lines of its metrics that count events."""
        status, text = self.get("/metrics")
        assert status == http.HTTPStatus.OK, text
        return [line for line in text.splitlines() if line.startswith("flower_events_total{")]

    def counted(self, kind: str, task: str) -> float:
        """How many events of this kind it has counted for a task, over all workers."""
        mine = [line for line in self.counters() if f'type="{kind}"' in line and f'task="{task}"' in line]
        return sum(float(line.rpartition(" ")[2]) for line in mine)

    def data(self) -> dict[str, Any]:
        """What the page of locks shows."""
        status, text = self.get("/locks/data")
        assert status == http.HTTPStatus.OK, text
        data: dict[str, Any] = json.loads(text)
        return data

    def locks(self, resource: str) -> list[dict[str, Any]]:
        """Who holds a resource."""
        return [lock for lock in self.data()["locks"] if lock["resource"] == resource]

    def node(self, name: str) -> dict[str, Any]:
        """What is shown of a node."""
        return next(node for node in self.data()["nodes"] if node["name"] == name)


def tasks_shown(browser: Browser) -> dict[str, str]:
    """The state of each task on the open page of tasks, the last received first."""
    # A table of nothing has one row of one cell.
    return {row[1]: row[2] for row in browser.rows("tasks-table") if len(row) > 1}

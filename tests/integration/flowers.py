"""A running Flower, with access to its API, its page of locks and its page of tasks."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
from pathlib import Path
from typing import Any

from typing_extensions import Self

from redlock.testing.redis_server import free_port
from tests.integration.browser import Browser
from tests.integration.tools import eventually
from tests.integration.worker_fixture import Worker


class Flower:
    """A running Flower with these options."""

    def __init__(self, directory: Path, environment: dict[str, str], *options: str, app: str = "workers.app") -> None:
        self._prefix = next(
            (f"/{option.partition('=')[2]}" for option in options if option.startswith("--url_prefix=")), ""
        )
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
        """The address of a page, for a browser."""
        return f"http://{credentials}{'@' if credentials else ''}{self._host}{self._prefix}{path}"

    def get(self, path: str, credentials: str = "") -> tuple[int, str]:
        """The status and text of a response; status 0 without a response."""
        headers = {"Authorization": f"Basic {base64.b64encode(credentials.encode()).decode()}"} if credentials else {}
        with contextlib.closing(http.client.HTTPConnection(self._host, timeout=20)) as connection:
            try:
                connection.request("GET", self._prefix + path, headers=headers)
                response = connection.getresponse()
                return response.status, response.read().decode()
            except (OSError, http.client.HTTPException):
                return 0, ""

    def headers(self, path: str) -> http.client.HTTPMessage:
        with contextlib.closing(http.client.HTTPConnection(self._host, timeout=20)) as connection:
            connection.request("GET", self._prefix + path)
            return connection.getresponse().headers

    def task(self, task_id: str) -> dict[str, Any]:
        """Flower's data on a task; empty for a task that Flower does not know yet. Needs an open API."""
        status, text = self.get(f"/api/task/info/{task_id}")
        data: dict[str, Any] = json.loads(text) if status == http.HTTPStatus.OK else {}
        return data

    def shows(self, task_id: str, state: str) -> None:
        """Wait until Flower shows a task in this state."""
        eventually(lambda: self.task(task_id).get("state") == state, f"task {task_id} as {state}", every=0.02)

    def counters(self) -> list[str]:
        status, text = self.get("/metrics")
        assert status == http.HTTPStatus.OK, text
        return [line for line in text.splitlines() if line.startswith("flower_events_total{")]

    def counted(self, kind: str, task: str) -> float:
        """The number of counted events of this kind for a task, over all workers."""
        lines = [line for line in self.counters() if f'type="{kind}"' in line and f'task="{task}"' in line]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def data(self) -> dict[str, Any]:
        status, text = self.get("/locks/data")
        assert status == http.HTTPStatus.OK, text
        data: dict[str, Any] = json.loads(text)
        return data

    def locks(self, resource: str) -> list[dict[str, Any]]:
        return [lock for lock in self.data()["locks"] if lock["resource"] == resource]

    def node(self, name: str) -> dict[str, Any]:
        return next(node for node in self.data()["nodes"] if node["name"] == name)


def tasks_shown(browser: Browser) -> dict[str, str]:
    """The state of each task on the open page of tasks, the last received first."""
    # An empty table has a single row with a single cell.
    return {row[1]: row[2] for row in browser.rows("tasks-table") if len(row) > 1}

"""The sender of the tasks, in the environment of the library: `python -m benchmarks.survival.sender`.

A command and its reply are lines of JSON. The reply has the task id that the sender got, or the error.

    send    name, number, seconds, retries      the arguments of the task
    revoke  id                                  terminate the running task
"""

from __future__ import annotations

from typing import Any

from benchmarks.survival.celery_app import app, work
from benchmarks.survival.replies import reply_to_commands


def _send(said: dict[str, Any]) -> dict[str, Any]:
    return {"id": work.delay(said["name"], said["number"], said["seconds"], said["retries"]).id}


def _revoke(said: dict[str, Any]) -> dict[str, Any]:
    app.control.revoke(said["id"], terminate=True)
    return {}


reply_to_commands({"send": _send, "revoke": _revoke}.__getitem__)

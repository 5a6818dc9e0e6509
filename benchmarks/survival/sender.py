"""The sender of the tasks, in the environment of the library: `python -m benchmarks.survival.sender`.

A command and its reply are lines of JSON. The reply has the task id that the sender got, or the error.

    send    name, number, seconds, retries      the arguments of the task
    revoke  id                                  terminate the running task
"""

from __future__ import annotations

import json
import sys

from benchmarks.survival.celery_app import app, work

for _line in sys.stdin:
    _said = json.loads(_line)
    _answer: dict[str, str | None] = {}
    try:
        if _said["do"] == "revoke":
            app.control.revoke(_said["id"], terminate=True)
        else:
            _answer["id"] = work.delay(_said["name"], _said["number"], _said["seconds"], _said["retries"]).id
    except Exception as exc:  # noqa: BLE001 - each peer has its own errors; the result reports them
        _answer = {"error": f"{type(exc).__name__}: {exc}"}
    print(json.dumps(_answer), flush=True)

"""Who sends the tasks, in the library's environment: `python -m benchmarks.survival.sender`.

A line of JSON each way; the answer has the id that the sender was given, or the error that it met.

    send    name, number, seconds, retries      the task's arguments
    revoke  id                                  terminate the task that runs
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
    except Exception as exc:  # noqa: BLE001 - what a peer raises is a result
        _answer = {"error": f"{type(exc).__name__}: {exc}"}
    print(json.dumps(_answer), flush=True)

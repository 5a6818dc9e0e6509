"""A periodic report without overlap: beat sends the task every few seconds, and a second run at the same time ends.

Invariants:
1. With `on_conflict="skip"` and `wait=0` no slot of the worker waits, and late reports do not pile up.
2. A skip returns a value, which is visible in the results and ends no chain.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from celery import Celery

from redlock.celery import current_lease, locked

REDIS = os.environ.get("REPORT_REDIS", "redis://127.0.0.1:6379")
EVERY = float(os.environ.get("REPORT_EVERY", "60"))
TAKES = float(os.environ.get("REPORT_TAKES", "90"))
FILE = Path(os.environ.get("REPORT_FILE", "report.txt"))

app = Celery("report", broker=f"{REDIS}/0", backend=f"{REDIS}/1")
app.conf.update(
    broker_connection_retry_on_startup=True,
    beat_schedule={
        "report": {
            "task": "report.write_report",
            "schedule": EVERY,
            # Reports that waited while the workers were down are not needed.
            "options": {"expires": EVERY},
        },
    },
)


@app.task
@locked("report", wait=0, on_conflict="skip")
def write_report() -> dict[str, object]:
    """Make the report, which takes longer than the time between two reports."""
    with FILE.open("a", encoding="utf-8") as file:
        file.write("begin\n")
        file.flush()
        until = time.monotonic() + TAKES
        while time.monotonic() < until:
            time.sleep(0.05)  # a page of the report
            current_lease().ensure_valid()
        file.write("end\n")
    return {"status": "written", "fence": current_lease().fence}

"""The base class of the tasks of `transfers.py` and of `ledger/`."""

from __future__ import annotations

import time
from typing import Any

from celery import Task
from celery.exceptions import Reject
from celery.utils.log import get_task_logger

logger = get_task_logger(__name__)


class PatientTask(Task):  # type: ignore[misc]  # Celery is untyped
    """A task that is repeated until its success, however long a server is away. The task must have no time limit."""

    abstract = True
    max_retries = None
    retry_backoff = True
    retry_backoff_max = 2

    def retry(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as Celery's
        """Send the task back to the broker, and wait while the broker takes no message: Celery would drop the task."""
        while True:
            try:
                return super().retry(*args, **kwargs)
            except Reject as refused:
                logger.warning("the broker does not take the retry: %s", refused.reason)
                time.sleep(1)

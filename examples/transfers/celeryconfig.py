"""Celery's settings, of `transfers.py` and of `ledger/`."""

import os

_redis = os.environ.get("TRANSFERS_REDIS", "redis://127.0.0.1:6379")

broker_url = f"{_redis}/0"
result_backend = f"{_redis}/1"
task_acks_late = True  # a transfer is acknowledged when it is done,
task_reject_on_worker_lost = True  # and delivered again when its worker was killed
worker_prefetch_multiplier = 1
broker_connection_retry_on_startup = True

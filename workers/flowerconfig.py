"""Flower's configuration, read by `celery -A workers.app flower --conf=workers/flowerconfig.py`.

Flower executes this file before its start and reads each name of an option. The command line takes precedence.
"""

from __future__ import annotations

import redlock.celery.flower
from workers.settings import from_environment

redlock.celery.flower.add_page()

_users = from_environment()[0].flower_users
if _users:
    basic_auth = _users

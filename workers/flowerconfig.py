"""Flower's configuration, read by `celery -A workers.app flower --conf=workers/flowerconfig.py`.

Rules: Flower runs it before it starts, and takes each name that is one of its options; its command line wins.
"""

from __future__ import annotations

import redlock.flower

redlock.flower.add_page()

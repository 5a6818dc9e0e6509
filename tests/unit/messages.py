"""The types of the fixtures for messages of tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from redlock.celery.delivery import Delivery

Deliver: TypeAlias = Callable[..., Delivery]
"""Makes the message of a run; its request has these fields."""
Sent: TypeAlias = list[dict[str, Any]]
"""The arguments and options of each message that goes back."""
